"""A run over its event time, read from its tables, one point per epoch: the data of the report's charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from deploy.report.summary import Value
from deploy.report.time_axis import TimeAxis
from streams.database import schema


@dataclass(frozen=True)
class Epoch:
    """An epoch and the event time that it has reached, ms."""

    number: int
    time: int


class Point(NamedTuple):
    """Metrics of a variant at the end of an epoch, over `n` outcomes; None if they are not defined."""

    n: int
    hr_10: float | None
    ndcg_10: float | None
    chance_hr_10: float | None
    chance_ndcg_10: float | None


class Drift(NamedTuple):
    """A change of the mean NDCG@10 of a variant, detected by ADWIN at event time `time`."""

    variant: str
    epoch: int
    time: int
    before: float
    after: float


class Decision(NamedTuple):
    """A decision of the coordinator after an epoch."""

    epoch: int
    release: int
    outcome: str
    reason: str


class ReleaseRow(NamedTuple):
    """A release with the versions of its parts and the losses that the gate compared."""

    version: int
    parent: int
    kind: str
    encoder: int
    slow: int
    fast: int
    epoch: int
    trained_until: int
    gate: dict[str, Value]


def epochs(connection: sa.Connection, run: str) -> list[Epoch]:
    """Return the epochs that contain an event, in order."""
    i = schema.interactions.c
    query = sa.select(i.epoch, sa.func.max(i.group_time)).where(i.run == run).group_by(i.epoch).order_by(i.epoch)
    rows = connection.execute(query).all()
    reached = accumulate((int(time) for _, time in rows), max)  # late events do not turn time back
    return [Epoch(int(number), time) for (number, _), time in zip(rows, reached, strict=True)]


def axis(connection: sa.Connection, run: str, line: Sequence[Epoch]) -> TimeAxis:
    """Return the time axis of the run, from its first to its last event, with a point per epoch."""
    i = schema.interactions.c
    first, last = connection.execute(sa.select(sa.func.min(i.time), sa.func.max(i.time)).where(i.run == run)).one()
    times = [epoch.time for epoch in line]
    return TimeAxis(times, min([int(first or 0), *times]), max([int(last or 0), *times]))


def measured_epochs(connection: sa.Connection, run: str, newest: int) -> list[Epoch]:
    """Return the newest epochs whose metrics are recorded, at most `newest`, in order. Cheap: no event is read."""
    p = schema.metric_points.c
    query = sa.select(p.epoch, sa.func.max(p.time)).where(p.run == run).group_by(p.epoch)
    rows = connection.execute(query.order_by(p.epoch.desc()).limit(newest)).all()
    return [Epoch(int(number), int(time)) for number, time in reversed(rows)]


def quality(connection: sa.Connection, run: str, subset: str, form: str, since: int = 0) -> dict[str, dict[int, Point]]:
    """Return the metrics of each variant by epoch, from epoch `since` on."""
    p = schema.metric_points.c
    wanted = p.variant, p.epoch, p.n, p.hr_10, p.ndcg_10, p.chance_hr_10, p.chance_ndcg_10
    where = p.run == run, p.subset == subset, p.form == form, p.epoch >= since
    query = sa.select(*wanted).where(*where).order_by(p.epoch)
    result: dict[str, dict[int, Point]] = {}
    for variant, epoch, *values in connection.execute(query):
        result.setdefault(variant, {})[epoch] = Point(*values)
    return result


@dataclass(frozen=True)
class Costs:
    """Costs of the outcomes of an epoch: sums of bytes, quantiles of ages; None if no outcome has a value."""

    outcomes: int
    bytes_up: int
    bytes_down: int
    r2_age_s: float | None  # event time since the window of the r2 closed
    answer_ms: tuple[float, float] | None  # wall clock from request to answer: median and 95 %


def costs(connection: sa.Connection, run: str) -> dict[int, Costs]:
    """Return the costs of each epoch with outcomes, by its number."""
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
    """Return the number of negative memories (r2) uploaded in each epoch of `line`, by event time."""
    if not line:
        return []
    m = schema.negative_memories.c
    times = connection.execute(sa.select(m.time).where(m.run == run)).scalars().all()
    epoch = np.searchsorted([each.time for each in line], np.array(times, dtype=np.int64))
    epoch = np.minimum(epoch, len(line) - 1)  # the last window may close after the last impression has begun
    return [int(n) for n in np.bincount(epoch, minlength=len(line))]


def slates(connection: sa.Connection, run: str) -> dict[str, int]:
    """Return the number of outcomes ranked on each kind of slate."""
    o = schema.outcomes.c
    query = sa.select(o.slate, sa.func.count()).where(o.run == run).group_by(o.slate)
    return {str(slate): int(n) for slate, n in connection.execute(query)}


def drifts(connection: sa.Connection, run: str) -> list[Drift]:
    """Return the changes that ADWIN detected, in order of event time."""
    d = schema.drifts.c
    query = sa.select(d.variant, d.epoch, d.time, d.before, d.after).where(d.run == run)
    return [Drift(*row) for row in connection.execute(query.order_by(d.time, d.user, d.seq))]


def decisions(connection: sa.Connection, run: str) -> list[Decision]:
    """Return the coordinator's decisions that changed or refused something, in order."""
    d = schema.decisions.c
    query = sa.select(d.epoch, d.release, d.outcome, d.reason).where(d.run == run, d.outcome != "unchanged")
    return [Decision(*row) for row in connection.execute(query.order_by(d.epoch))]


def releases(connection: sa.Connection, run: str, newest: int | None = None) -> list[ReleaseRow]:
    """Return the releases, oldest first; or only the `newest` ones."""
    r = schema.releases.c
    query = sa.select(*(r[name] for name in ReleaseRow._fields)).where(r.run == run).order_by(r.version.desc())
    return [ReleaseRow(*row) for row in reversed(connection.execute(query.limit(newest)).all())]


def count(connection: sa.Connection, run: str, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    """Return the number of rows of `table` of the run that satisfy `where`."""
    query = sa.select(sa.func.count()).select_from(table).where(table.c.run == run, *where)
    return int(connection.execute(query).scalar_one())
