"""What the tables tell of a run over its event time, an epoch a point: the material of the report's charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from streams.database import schema

_DAY = 86_400_000


@dataclass(frozen=True)
class Epoch:
    """An epoch and the event time that it had reached, ms."""

    number: int
    time: int


def epochs(connection: sa.Connection, run: str) -> list[Epoch]:
    """Return the epochs that hold an event, in order."""
    i = schema.interactions.c
    query = sa.select(i.epoch, sa.func.max(i.group_time)).where(i.run == run).group_by(i.epoch).order_by(i.epoch)
    return [Epoch(int(number), int(time)) for number, time in connection.execute(query)]


def labels(line: Sequence[Epoch]) -> list[str]:
    """Name each epoch by the event time it reached, as finely as the whole span asks for."""
    if not line:
        return []
    span = line[-1].time - line[0].time
    form = "%d %b %Y" if span > 8 * _DAY else "%d %b %H:%M"
    return [datetime.fromtimestamp(epoch.time / 1000, UTC).strftime(form) for epoch in line]


def quality(connection: sa.Connection, run: str, subset: str, form: str) -> dict[str, dict[int, Any]]:
    """Return per variant the metric points of its epochs."""
    p = schema.metric_points.c
    query = sa.select(schema.metric_points).where(p.run == run, p.subset == subset, p.form == form).order_by(p.epoch)
    result: dict[str, dict[int, Any]] = {}
    for row in connection.execute(query):
        result.setdefault(row.variant, {})[row.epoch] = row
    return result


@dataclass(frozen=True)
class Costs:
    """What the outcomes of an epoch cost: sums of bytes, medians of ages; None where no outcome had one."""

    outcomes: int
    bytes_up: int
    bytes_down: int
    r2_age_s: float | None  # event time since the window closed whose r2 was used
    answer_ms: tuple[float, float] | None  # wall clock from request to answer: median and 95 %


def costs(connection: sa.Connection, run: str) -> dict[int, Costs]:
    """Return per epoch what its outcomes cost."""
    o = schema.outcomes.c
    wanted = o.epoch, o.bytes_up, o.bytes_down, o.window, o.r2_age, o.expired, o.asked_wall, o.answered_wall
    rows = np.array(connection.execute(sa.select(*wanted).where(o.run == run)).all(), dtype=np.int64).reshape(-1, 8)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    numbers, starts = np.unique(rows[:, 0], return_index=True)
    return {int(n): _costs(part) for n, part in zip(numbers, np.split(rows, starts[1:]), strict=False)}


def _costs(rows: NDArray[np.int64]) -> Costs:
    _, up, down, window, age, expired, asked, answered = rows.T
    ages, waits = age[window > 0], (answered - asked)[(expired == 0) & (asked > 0)]
    return Costs(
        len(rows),
        int(up.sum()),
        int(down.sum()),
        float(np.median(ages)) / 1000 if len(ages) else None,
        (float(np.median(waits)), float(np.quantile(waits, 0.95))) if len(waits) else None,
    )


def uploads(connection: sa.Connection, run: str, line: Sequence[Epoch]) -> list[int]:
    """Return how many negative memories (r2) were uploaded in each epoch of `line`, by event time."""
    m = schema.negative_memories.c
    times = connection.execute(sa.select(m.time).where(m.run == run)).scalars().all()
    places = np.searchsorted([epoch.time for epoch in line], np.array(times, dtype=np.int64))
    return [int(n) for n in np.bincount(places, minlength=len(line))[: len(line)]]


def slates(connection: sa.Connection, run: str) -> dict[str, int]:
    """Return how many outcomes were ranked on each kind of slate."""
    o = schema.outcomes.c
    query = sa.select(o.slate, sa.func.count()).where(o.run == run).group_by(o.slate)
    return {str(slate): int(n) for slate, n in connection.execute(query)}


def drifts(connection: sa.Connection, run: str) -> list[Any]:
    """Return the changes that ADWIN found, in order of event time."""
    d = schema.drifts.c
    return list(connection.execute(sa.select(schema.drifts).where(d.run == run).order_by(d.time, d.user, d.seq)))


def decisions(connection: sa.Connection, run: str) -> list[Any]:
    """Return the coordinator's decisions that changed or refused something, in order."""
    d = schema.decisions.c
    query = sa.select(schema.decisions).where(d.run == run, d.outcome != "unchanged").order_by(d.epoch)
    return list(connection.execute(query))


def releases(connection: sa.Connection, run: str) -> list[Any]:
    """Return the releases, oldest first, without their manifests."""
    r = schema.releases.c
    wanted = [column for column in r if column.name != "manifest"]
    return list(connection.execute(sa.select(*wanted).where(r.run == run).order_by(r.version)))


def count(connection: sa.Connection, run: str, table: sa.Table) -> int:
    """Return how many rows of `table` belong to the run."""
    query = sa.select(sa.func.count()).select_from(table).where(table.c.run == run)
    return int(connection.execute(query).scalar_one())
