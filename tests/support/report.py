"""A fabricated run: its summary and its tables, for tests of reports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from deploy.report.summary import METRICS, Bytes, Latency, Quality, Summary
from streams.database import schema
from streams.database.engine import connect, copy_new
from streams.settings import Settings

VARIANTS = {"random": 0.1, "popularity": 0.3, "din": 0.4, "f2s": 0.44, "fast": 0.5, "mc2sf": 0.6, "river": 0.35}
EPOCHS = 24
MONTH = 30 * 24 * 3_600_000
START = 956_703_932_000
RUN = "fake"
RELEASES = [("initial", 0, 0), ("learner", 1, 3), ("retrain", 2, 7), ("learner", 3, 11), ("retrain", 4, 15)]
_EMPTY = {str: "", bytes: b"", int: 0, bool: False, float: 0.0, dict: {}, object: {}}  # JSON is either


def quality(best: float, n: int) -> Quality:
    scores = [best * (0.5 if "1" in name[-2:] else 0.9) for name in METRICS]
    return Quality(*scores, n=n, chance_hr_10=0.1)


def summary(**changed: Any) -> Summary:
    """Return the summary of the run, with some fields changed."""
    online = {name: quality(best, 480) for name, best in VARIANTS.items()}
    whole = Summary(
        run=RUN,
        source="ml-1m:folder",
        events_sent=12_345,
        events_applied=12_345,
        events_duplicate=0,
        dead_letters=3,
        faults=None,
        users=100,
        items=50,
        clicks=700,
        r2_uploads=240,
        rank_requests=480,
        outcomes=480,
        expired=2,
        cold=0,
        releases=[],
        online=online,
        offline=online,
        online_collaborative={},
        online_cold={},
        last_quarter=online,
        optimum=None,
        experiment=None,
        offline_differences=0,
        share_with_history=0.9,
        share_with_r2=0.8,
        seconds=2.3,
        events_per_second=5432.1,
        freshness_ms=Latency(12.5, 80.0, None),
        bytes=Bytes(5_000_000, 61_000_000, 0, 660_000.0),
        peak_memory_mb={"device-1": 512.3, "recorder": 301.0},
        restarts={},
        digest="0123456789abcdef",
        seed=1,
        settings={"exposures": "simulated", "evaluate": 0.05, "frozen": False, "lockstep": True},
        versions={"torch": "2.13.0", "python": "3.11"},
    )
    return msgspec.structs.replace(whole, **changed)


def wave(best: float, epoch: int) -> float:
    return best * (1 - math.exp(-(epoch + 1) / 6)) + 0.01 * math.sin(epoch)


def put(connection: sa.Connection, table: sa.Table, rows: Iterable[dict[str, Any]]) -> None:
    """Insert rows; columns that they lack are empty, or null if they may be."""
    empty = {c.name: None if c.nullable else _EMPTY[c.type.python_type] for c in table.columns}
    copy_new(connection, table, [tuple((empty | row).values()) for row in rows])


def tables(folder: Path) -> sa.Engine:
    """Tables with a run of invented figures, and with another run."""
    engine = connect(f"sqlite:///{folder / 'fake.db'}")
    with engine.begin() as connection:
        fill(connection, RUN)
        fill(connection, "another")
    return engine


def fill(connection: sa.Connection, run: str) -> None:
    """Write a run into the tables: EPOCHS epochs of a month each."""
    until = [START + epoch * MONTH for epoch in range(EPOCHS)]
    of_run = {"run": run}
    source = {"source": "ml-1m:<b>folder</b>", "settings": Settings(run=run).semantic(), "created_wall": START}
    put(connection, schema.runs, [of_run | source])
    for e, t in enumerate(until):
        at = of_run | {"epoch": e, "time": t, "user": "u", "seq": e}
        put(connection, schema.interactions, [at | {"item": 1, "group_time": t}])
        memories = [of_run | {"user": f"u{n}", "window": e, "time": t - n} for n in range(5 + e % 7)]
        put(connection, schema.negative_memories, memories)
        put(connection, schema.click_uploads, [of_run | {"user": "u", "epoch": e, "time": t}])
        put(connection, schema.metric_points, _points(of_run | {"epoch": e, "time": t}))
        put(connection, schema.outcomes, [at | _outcome(e, n) for n in range(20)])
    drifts = [("mc2sf", 9, 0.42), ("din", 12, 0.21)]
    put(
        connection,
        schema.drifts,
        [
            of_run | {"variant": v, "epoch": e, "time": until[e], "before": 0.3, "after": after}
            for v, e, after in drifts
        ],
    )
    put(
        connection,
        schema.releases,
        [
            of_run
            | {"version": v, "parent": max(v - 1, 0), "kind": k, "encoder": v // 2, "slow": v // 2, "fast": v}
            | {"epoch": e, "trained_until": until[e] if v else 0}
            | {"gate": {"active": 0.61, "candidate": 0.58} if v else {}}
            for k, v, e in RELEASES
        ],
    )
    decided = [(e, v, k, "") for k, v, e in RELEASES if v]
    decided += [(20, 4, "rejected", "held-out loss 0.71 against 0.58"), (21, 4, "unchanged", "nothing is due")]
    put(
        connection,
        schema.decisions,
        [of_run | {"epoch": e, "release": v, "outcome": k, "reason": why} for e, v, k, why in decided],
    )


def _points(at: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for variant, best in VARIANTS.items():
        value = wave(best, at["epoch"])
        scores = {"hr_1": value, "hr_5": value, "hr_10": value, "ndcg_5": value, "ndcg_10": 0.7 * value, "mrr": value}
        chances = {"chance_hr_10": 0.1, "chance_ndcg_10": 0.045, "n": 20 * (at["epoch"] + 1)}
        for subset in ("all", "collaborative") if at["epoch"] > 2 else ("all",):
            for form in ("sliding", "cumulative", "fading"):
                yield at | scores | chances | {"variant": variant, "subset": subset, "form": form}


def _outcome(epoch: int, n: int) -> dict[str, Any]:
    return {
        "user": f"u{n}",
        "slate": "sampled",
        "ranks": {"mc2sf": 1},
        "window": n % 2,
        "r2_age": 60_000 * n,
        "bytes_up": 900 + 10 * epoch,
        "bytes_down": 12_800,
        "asked_wall": 1000,
        "answered_wall": 1000 + 10 * n,
    }
