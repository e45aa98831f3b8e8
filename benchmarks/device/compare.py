"""`make bench-device`: the device worker against a naive Faust agent, Quix Streams and the bare arithmetic.

All read the same records, with 1 and with 3 events per record; repeats are interleaved, and a ratio is the median of
the ratios within a repeat. The last line printed is the result as JSON; all repeats are written to device.json.
README.md has the protocol.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.device.memory import InMemory
from benchmarks.device.race import race
from benchmarks.device.records import Workload, prepare
from benchmarks.servers.embedded import embedded_broker
from benchmarks.servers.kafka import Cluster
from streams.settings import Settings

CONTENDERS = ("worker", "naive", "quix")
OTHERS = ("naive", "quix", "torch", "in_memory")  # in_memory: the worker's batches without Kafka
PER_RECORD = (1, 3)


def main() -> None:
    """Race, write device.json, print the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device.compare", description=__doc__)
    parser.add_argument("--events", type=int, default=60_000, help="of each race")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--kafka", action="store_true", help="on the Apache Kafka in KAFKA_HOME, not the embedded broker"
    )
    parser.add_argument("--envelopes", action="store_true", help="all records in envelopes, which naive cannot read")
    parser.add_argument("--out", type=Path, help="instead of device.json, or device_envelopes.json")
    asked = parser.parse_args()
    workload = Workload(asked.events)
    raw: dict[str, Any] = {
        "machine": machine.described(("torch", "faust-streaming", "quixstreams")),
        "broker": "kafka" if asked.kafka else "embedded",
        "envelopes": asked.envelopes,
        "workload": asdict(workload),
        "load_before": os.getloadavg(),
        "repeats": _repeats(workload, asked.repeats, kafka=asked.kafka, envelopes=asked.envelopes),
        "load_after": os.getloadavg(),
    }
    raw["result"] = result(raw["repeats"])
    out = asked.out or Path(__file__).with_name("device_envelopes.json" if asked.envelopes else "device.json")
    out.write_text(json.dumps(raw, indent=1) + "\n")
    print(json.dumps(raw["result"]))


def _repeats(workload: Workload, repeats: int, *, kafka: bool, envelopes: bool) -> list[dict[str, Any]]:
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        brokers = stack.enter_context(_broker(folder, kafka=kafka))
        memory = {n: InMemory(_settings(folder, "", brokers, envelopes=envelopes), workload, n) for n in PER_RECORD}
        for repeat in range(repeats):
            for n in PER_RECORD:
                settings = _settings(folder, f"bench-{n}-{repeat}", brokers, envelopes=envelopes)
                row = _races(settings, workload, n, first=repeat)
                row |= {"in_memory": asdict(memory[n].whole()), "torch": asdict(memory[n].bare())}
                rows.append({"per_record": n, "repeat": repeat, **row})
                print(f"repeat {repeat + 1} of {repeats}, {n} a record:", _told(row), flush=True)
    return rows


def _races(settings: Settings, workload: Workload, per_record: int, *, first: int) -> dict[str, Any]:
    """Race each contender over the same topics; the order changes from repeat to repeat."""
    total = prepare(settings, workload, per_record)
    order = [CONTENDERS[(first + i) % len(CONTENDERS)] for i in range(len(CONTENDERS))]
    if settings.envelopes:
        order.remove("naive")
    return {which: asdict(race(which, settings, total)) for which in order}


@contextmanager
def _broker(folder: Path, *, kafka: bool) -> Iterator[str]:
    if not kafka:
        with embedded_broker(folder / "broker.log") as address:
            yield address
        return
    if "KAFKA_HOME" not in os.environ:
        raise SystemExit("--kafka needs KAFKA_HOME")
    with Cluster(Path(os.environ["KAFKA_HOME"]), folder) as cluster:
        yield cluster.addresses


def _settings(folder: Path, run: str, brokers: str, *, envelopes: bool) -> Settings:
    """Free-running and without ranking: events in, state and r2 out."""
    return Settings(
        run=run or "bench",
        brokers=brokers,
        database=f"sqlite:///{folder / 'bench.db'}",
        state_dir=folder / (run or "bench"),
        lockstep=False,
        evaluate=0.0,
        envelopes=envelopes,
    )


def _told(row: dict[str, Any]) -> str:
    return ", ".join(f"{which} {pace['events_per_second']:,.0f}" for which, pace in row.items()) + " events/s"


def result(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians for each number of events per record, and at the top level those for 3."""
    per_record = {str(n): _medians([row for row in repeats if row["per_record"] == n]) for n in PER_RECORD}
    top = per_record[str(PER_RECORD[-1])]
    return {k: top[k] for k in ("events_per_second", "vs_naive", "vs_quix", "vs_torch") if k in top} | {
        "per_record": per_record
    }


def _medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return medians of speeds, and of ratios within a repeat, by wall-clock and by CPU time."""

    def mid(unit: str, which: str, over: str | None = None) -> float:
        return float(median(row[which][unit] / (row[over][unit] if over else 1) for row in rows))

    wall, cpu = "events_per_second", "events_per_cpu_second"
    others = [which for which in OTHERS if which in rows[0]]
    speeds = {"events_per_second": mid(wall, "worker")} | {which: mid(wall, which) for which in others}
    ratios = {f"vs_{which}": mid(wall, "worker", which) for which in others}
    ratios |= {f"vs_{which}_by_cpu": mid(cpu, "worker", which) for which in others}
    return {k: float(round(v)) for k, v in speeds.items()} | {k: round(v, 3) for k, v in ratios.items()}


if __name__ == "__main__":
    main()
