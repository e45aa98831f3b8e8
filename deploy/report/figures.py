"""The charts of the report: quality, flow and drift of a run over its event time, from its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from deploy.report import timeline
from deploy.report.line_chart import Chart, Mark, Series
from deploy.report.time_axis import TimeAxis
from deploy.report.timeline import Costs, Decision, Epoch, Point
from deploy.report.variants import ordered

CHANCE_COLOUR = 9


@dataclass(frozen=True)
class Figure:
    """A chart, its id on the page and its caption."""

    name: str
    caption: str
    chart: Chart


def figures(connection: sa.Connection, run: str, line: Sequence[Epoch], axis: TimeAxis) -> list[Figure]:
    """Return the charts of a run that have data."""
    marks = release_marks(timeline.decisions(connection, run), line)
    return [
        *qualities(connection, run, line, axis, marks),
        *_flow(connection, run, line, axis, marks),
        *_drift(connection, run, line, axis),
    ]


def qualities(
    connection: sa.Connection, run: str, line: Sequence[Epoch], axis: TimeAxis, marks: Sequence[Mark]
) -> Iterable[Figure]:
    """Return the charts of the metrics over the epochs of `line`."""
    caption = "Sliding mean. Vertical lines: retrained releases; ticks: releases of the learner; dashed: chance."
    for subset, clicks in (
        ("all", "all ranked clicks"),
        ("collaborative", "clicks of users with a delayed history and an r2"),
    ):
        points = timeline.quality(connection, run, subset, "sliding", line[0].number if line else 0)
        for column, metric in (("hr_10", "HR@10"), ("ndcg_10", "NDCG@10")):
            if points:
                chart = Chart(f"{metric}, {clicks}", caption, axis, quality_series(points, column, line), marks)
                yield Figure(f"{subset}-{column}", caption, chart)


def _flow(
    connection: sa.Connection, run: str, line: Sequence[Epoch], axis: TimeAxis, marks: Sequence[Mark]
) -> Iterable[Figure]:
    def figure(name: str, title: str, caption: str, series: list[Series]) -> Iterable[Figure]:
        if any(value for one in series for value in one.values):
            yield Figure(name, caption, Chart(title, caption, axis, series, marks, brief, compact, from_zero=True))

    uploads = [Series("r2", [float(n) for n in timeline.uploads(connection, run, line)], 0)]
    yield from figure("uploads", "Negative memories uploaded", "r2 sent to the cloud per epoch.", uploads)
    costs = timeline.costs(connection, run)

    def each(amount: Callable[[Costs], float | None]) -> list[float | None]:
        return [amount(costs[epoch.number]) if epoch.number in costs else None for epoch in line]

    down = Series("down", each(lambda c: c.bytes_down / c.outcomes), 0)
    up = Series("up", each(lambda c: c.bytes_up / c.outcomes), 1)
    yield from figure("bytes", "Bytes per ranked click", "Request (up) and answer (down).", [down, up])
    median = Series("median", each(lambda c: c.answer_ms and c.answer_ms[0]), 0)
    slow = Series("95 %", each(lambda c: c.answer_ms and c.answer_ms[1]), 1)
    yield from figure("answers", "From request to answer, ms", "Wall-clock time that a device waits.", [slow, median])
    age = Series("median", each(lambda c: c.r2_age_s), 0)
    yield from figure("ages", "Age of the r2 in use, s", "Event time since its window closed.", [age])


def _drift(connection: sa.Connection, run: str, line: Sequence[Epoch], axis: TimeAxis) -> Iterable[Figure]:
    points = timeline.quality(connection, run, "all", "fading")
    if not points:
        return
    point = {epoch.number: index for index, epoch in enumerate(line)}
    marks = [
        Mark(point[d.epoch], f"{d.variant} {'up' if d.after > d.before else 'down'}", small=d.variant != "mc2sf")
        for d in timeline.drifts(connection, run)
        if d.epoch in point
    ]
    caption = "Fading mean. Vertical lines: changes that ADWIN detected in mc2sf; ticks: changes in other variants."
    series = quality_series(points, "ndcg_10", line)
    yield Figure("drift", caption, Chart("Drift: NDCG@10, all ranked clicks", caption, axis, series, marks))


def quality_series(points: Mapping[str, Mapping[int, Point]], column: str, line: Sequence[Epoch]) -> list[Series]:
    """Return a series per variant, and one of chance: that of the variant with the most ranks."""
    field = Point._fields.index(column)
    chance = Point._fields.index(f"chance_{column}")

    def values(by_epoch: Mapping[int, Point], field: int) -> list[float | None]:
        return [by_epoch[e.number][field] if e.number in by_epoch else None for e in line]

    series = [
        Series(variant, values(points[variant], field), colour, strong=variant == "mc2sf")
        for colour, variant in enumerate(ordered(points))
    ]
    fullest = max(points.values(), key=lambda by_epoch: sum(point.n for point in by_epoch.values()))
    return [*series, Series("chance", values(fullest, chance), CHANCE_COLOUR, dashed=True)]


def release_marks(decisions: Sequence[Decision], line: Sequence[Epoch]) -> list[Mark]:
    """Return a mark per decision that changed something: a line for retrains and rollbacks, a tick for the learner."""
    point = {epoch.number: index for index, epoch in enumerate(line)}
    return [
        Mark(point[d.epoch], f"v{d.release}" + (" learner" if small else ""), small)
        for d in decisions
        if d.outcome != "rejected" and d.epoch in point
        for small in (d.outcome == "learner",)
    ]


def brief(value: float) -> str:
    """Format an amount: as an integer from 10 on, else with three significant digits."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"


def compact(value: float) -> str:
    """Format a value on an axis with at most five characters: 950, 12k, 1.5M."""
    for minimum, factor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= minimum:
            return f"{value / factor:.3g}{unit}"
    return brief(value)
