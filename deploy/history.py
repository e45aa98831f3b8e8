"""What the tables tell of a run over its event time, an epoch a point: the material of the report's charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from streams import tables

_DAY = 86_400_000


@dataclass(frozen=True)
class Epoch:
    """An epoch and the event time that it had reached, ms."""

    number: int
    time: int


def epochs(connection: sa.Connection, run: str) -> list[Epoch]:
    """Return the epochs that hold an event, in order."""
    i = tables.interactions.c
    query = sa.select(i.epoch, sa.func.max(i.unit_time)).where(i.run == run).group_by(i.epoch).order_by(i.epoch)
    return [Epoch(int(number), int(time)) for number, time in connection.execute(query)]


def labels(line: Sequence[Epoch]) -> list[str]:
    """Name each epoch by the event time it reached, as finely as the whole span asks for."""
    if not line:
        return []
    span = line[-1].time - line[0].time
    form = "%b %Y" if span > 400 * _DAY else "%d %b %Y" if span > 8 * _DAY else "%d %b %H:%M"
    return [datetime.fromtimestamp(epoch.time / 1000, UTC).strftime(form) for epoch in line]


def quality(connection: sa.Connection, run: str, subset: str, form: str) -> dict[str, dict[int, Any]]:
    """Return per variant the metric points of its epochs."""
    p = tables.metric_points.c
    query = sa.select(tables.metric_points).where(p.run == run, p.subset == subset, p.form == form).order_by(p.epoch)
    result: dict[str, dict[int, Any]] = {}
    for row in connection.execute(query):
        result.setdefault(row.variant, {})[row.epoch] = row
    return result


def traffic(connection: sa.Connection, run: str) -> dict[int, tuple[int, int, int]]:
    """Return per epoch the outcomes and the bytes up and down that they cost."""
    o = tables.outcomes.c
    sums = sa.func.count(), sa.func.sum(o.bytes_up), sa.func.sum(o.bytes_down)
    query = sa.select(o.epoch, *sums).where(o.run == run).group_by(o.epoch)
    return {int(epoch): (int(n), int(up), int(down)) for epoch, n, up, down in connection.execute(query)}


def uploads(connection: sa.Connection, run: str, line: Sequence[Epoch]) -> list[int]:
    """Return how many negative memories (r2) were uploaded in each epoch of `line`, by event time."""
    m = tables.negative_memories.c
    times = connection.execute(sa.select(m.time).where(m.run == run)).scalars().all()
    places = np.searchsorted([epoch.time for epoch in line], np.array(times, dtype=np.int64))
    return [int(n) for n in np.bincount(places, minlength=len(line))[: len(line)]]


def slates(connection: sa.Connection, run: str) -> dict[str, int]:
    """Return how many outcomes were ranked on each kind of slate."""
    o = tables.outcomes.c
    query = sa.select(o.slate, sa.func.count()).where(o.run == run).group_by(o.slate)
    return {str(slate): int(n) for slate, n in connection.execute(query)}


def decisions(connection: sa.Connection, run: str) -> list[Any]:
    """Return the coordinator's decisions that changed or refused something, in order."""
    d = tables.decisions.c
    query = sa.select(tables.decisions).where(d.run == run, d.outcome != "unchanged").order_by(d.epoch)
    return list(connection.execute(query))


def releases(connection: sa.Connection, run: str) -> list[Any]:
    """Return the releases, oldest first, without their manifests."""
    r = tables.releases.c
    wanted = [column for column in r if column.name != "manifest"]
    return list(connection.execute(sa.select(*wanted).where(r.run == run).order_by(r.version)))


def count(connection: sa.Connection, run: str, table: sa.Table) -> int:
    """Return how many rows of `table` belong to the run."""
    query = sa.select(sa.func.count()).select_from(table).where(table.c.run == run)
    return int(connection.execute(query).scalar_one())
