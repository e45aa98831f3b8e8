"""The summary of a run, from its tables and from what its processes said of themselves (see docs/summary.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from models.evaluation.metrics import METRICS
from streams.database import schema
from streams.prequential import metrics
from streams.prequential.metrics import Ranked, subsets
from streams.records import Kind
from streams.state.device import DeviceState
from streams.state.row_codec import unpack

_BUCKET = re.compile(r'^mc2sf_freshness_seconds_bucket\{le="([^"]+)"\}$')


def online(connection: sa.Connection, run: str, subset: str = "all") -> dict[str, dict[str, float]]:
    """Return the cumulative online metrics of each variant over its outcomes in `subset`, as last recorded."""
    points = schema.metric_points.c
    query = (
        sa.select(schema.metric_points)
        .where(points.run == run, points.subset == subset, points.form == "cumulative")
        .order_by(points.epoch)
    )
    last = {row.variant: row for row in connection.execute(query)}
    return {
        variant: {name: getattr(row, name.replace("@", "_")) for name in METRICS}
        | {"n": row.n, "chance_hr@10": row.chance_hr_10}
        for variant, row in sorted(last.items())
    }


def last_quarter(connection: sa.Connection, run: str) -> dict[str, dict[str, float]]:
    """Return the same over the newest quarter of the outcomes in total order: what the run has come to."""
    o = schema.outcomes.c
    query = sa.select(o.time, o.candidates, o.ranks, o.cold, o.history, o.window).where(o.run == run)
    rows = connection.execute(query.order_by(o.time, o.user, o.seq)).all()
    return metrics.summary(
        Ranked(r.time, len(r.candidates) // 8, subsets(cold=r.cold, history=r.history, window=r.window), r.ranks)
        for r in rows[3 * len(rows) // 4 :]
    )


def releases(connection: sa.Connection, run: str) -> list[dict[str, Any]]:
    """Return the releases in order, the refused proposals between them (version None, kind rejected)."""
    made = [
        (row.epoch, 1, {"version": row.version, "kind": row.kind, "trained_until": row.trained_until, "gate": row.gate})
        for row in connection.execute(sa.select(schema.releases).where(schema.releases.c.run == run))
    ]
    proposals = schema.proposals.c
    query = sa.select(proposals.epoch, proposals.trained_until, proposals.quality).where(
        proposals.run == run, proposals.status == "rejected"
    )
    refused = [
        (row.epoch, 0, {"version": None, "kind": "rejected", "trained_until": row.trained_until, "gate": row.quality})
        for row in connection.execute(query)
    ]
    return [entry for _, _, entry in sorted(made + refused, key=lambda each: (each[0], each[1]))]


def counts(connection: sa.Connection, run: str) -> dict[str, Any]:
    """Return what the tables count: events, users, items, uploads, outcomes and their shares."""

    def count(table: sa.Table, *where: Any) -> int:
        query = sa.select(sa.func.count()).select_from(table).where(table.c.run == run, *where)
        return int(connection.execute(query).scalar_one())

    i, o = schema.interactions.c, schema.outcomes.c
    total = count(schema.outcomes)
    distinct = sa.select(sa.func.count(i.user.distinct()), sa.func.count(i.item.distinct())).where(i.run == run)
    users, items = connection.execute(distinct).one()
    return {
        "dead_letters": count(schema.dead_letters),
        "users": int(users),
        "items": int(items),
        "clicks": count(schema.interactions, i.kind.in_([Kind.CLICK, Kind.PAST_CLICK])),
        "r2_uploads": count(schema.negative_memories),
        "outcomes": total,
        "expired": count(schema.outcomes, o.expired.is_(True)),
        "cold": count(schema.outcomes, o.cold.is_(True)),
        "share_with_history": count(schema.outcomes, o.history > 0) / total if total else 0.0,
        "share_with_r2": count(schema.outcomes, o.window > 0) / total if total else 0.0,
    }


def events_applied(connection: sa.Connection, run: str) -> int:
    """Return how many events are folded into the devices' state: the next expected seq of each user, summed."""
    u = schema.user_snapshots.c
    newest = (
        sa.select(u.user, sa.func.max(u.epoch).label("epoch"))
        .where(u.run == run, u.side == "device")
        .group_by(u.user)
        .subquery()
    )
    query = (
        sa.select(u.state)
        .join(newest, (u.user == newest.c.user) & (u.epoch == newest.c.epoch))
        .where(u.run == run, u.side == "device")
    )
    return sum(unpack(bytes(state), DeviceState).seq for state in connection.execute(query).scalars())


def freshness(samples: Iterable[Mapping[str, float]]) -> dict[str, float | None]:
    """Return p50, p95 and p99 in ms over the histograms of several workers, interpolated as Prometheus does."""
    buckets: dict[float, float] = {}
    for one in samples:
        for name, value in one.items():
            if match := _BUCKET.match(name):
                bound = float(match[1].replace("+Inf", "inf"))
                buckets[bound] = buckets.get(bound, 0.0) + value
    bounds = sorted(buckets)
    result: dict[str, float | None] = {}
    for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        result[label] = None
        wanted = share * buckets[bounds[-1]] if bounds else 0.0
        below, low = 0.0, 0.0
        for bound in bounds if wanted else ():
            if buckets[bound] >= wanted:
                inside = buckets[bound] - below
                high = low if bound == float("inf") else bound
                result[label] = round(1000 * (low + (high - low) * (wanted - below) / inside), 3)
                break
            below, low = buckets[bound], bound
    return result


def total(samples: Iterable[Mapping[str, float]], name: str) -> float:
    """Return the sum of one sample over several processes."""
    return sum(one.get(name, 0.0) for one in samples)
