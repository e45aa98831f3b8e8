"""The charts of a run, over its event time: what the report shows and from which tables it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from deploy.report import timeline
from deploy.report.line_chart import Chart, Mark, Series
from deploy.report.timeline import Costs, Epoch

# in the order of their colours; others come after
VARIANTS = ("mc2sf", "fast", "f2s", "din", "river", "popularity", "random")
CHANCE_COLOUR = 9


@dataclass(frozen=True)
class Figure:
    """A chart, its place on the page and what the page says about it."""

    name: str
    caption: str
    chart: Chart


def figures(connection: sa.Connection, run: str, line: Sequence[Epoch]) -> list[Figure]:
    """Return the charts of a run, those without any data left out."""
    labels = timeline.labels(line)
    marks = release_marks(timeline.decisions(connection, run), line)
    return [
        *_qualities(connection, run, line, labels, marks),
        *_flow(connection, run, line, labels, marks),
        *_drift(connection, run, line, labels),
    ]


def _qualities(
    connection: sa.Connection, run: str, line: Sequence[Epoch], labels: Sequence[str], marks: Sequence[Mark]
) -> Iterable[Figure]:
    caption = "The newest clicks. Vertical lines are retrains in force, ticks the learner's releases; dashed is chance."
    for subset, whose in (("all", "all ranked clicks"), ("collaborative", "clicks of users whom both sides know")):
        points = timeline.quality(connection, run, subset, "sliding")
        for column, metric in (("hr_10", "HR@10"), ("ndcg_10", "NDCG@10")):
            if points:
                chart = Chart(f"{metric}, {whose}", caption, labels, quality_series(points, column, line), marks)
                yield Figure(f"{subset}-{column}", caption, chart)


def _flow(
    connection: sa.Connection, run: str, line: Sequence[Epoch], labels: Sequence[str], marks: Sequence[Mark]
) -> Iterable[Figure]:
    def figure(name: str, title: str, caption: str, series: list[Series]) -> Iterable[Figure]:
        if any(value for one in series for value in one.values):
            yield Figure(name, caption, Chart(title, caption, labels, series, marks, brief, from_zero=True))

    uploads = [Series("r2", [float(n) for n in timeline.uploads(connection, run, line)], 0)]
    yield from figure("uploads", "Negative memories uploaded", "r2 sent to the cloud in each epoch.", uploads)
    found = timeline.costs(connection, run)

    def each(amount: Callable[[Costs], float | None]) -> list[float | None]:
        return [amount(found[epoch.number]) if epoch.number in found else None for epoch in line]

    down = Series("down", each(lambda c: c.bytes_down / c.outcomes), 0)
    up = Series("up", each(lambda c: c.bytes_up / c.outcomes), 1)
    yield from figure("bytes", "Bytes a ranked click", "Between device and cloud: request and answer.", [down, up])
    median = Series("median", each(lambda c: c.answer_ms and c.answer_ms[0]), 0)
    most = Series("95 %", each(lambda c: c.answer_ms and c.answer_ms[1]), 1)
    yield from figure("answers", "From request to answer, ms", "Wall clock; how long a device waits.", [most, median])
    age = Series("median", each(lambda c: c.r2_age_s), 0)
    yield from figure("ages", "Age of the r2 in use, s", "Event time since its window closed.", [age])


def _drift(connection: sa.Connection, run: str, line: Sequence[Epoch], labels: Sequence[str]) -> Iterable[Figure]:
    points = timeline.quality(connection, run, "all", "fading")
    if not points:
        return
    place = {epoch.number: index for index, epoch in enumerate(line)}
    marks = [
        Mark(place[d.epoch], f"{d.variant} {'up' if d.after > d.before else 'down'}", small=d.variant != "mc2sf")
        for d in timeline.drifts(connection, run)
        if d.epoch in place
    ]
    caption = "With fading memory. Vertical lines are changes that ADWIN found in mc2sf, ticks those in other variants."
    series = quality_series(points, "ndcg_10", line)
    yield Figure("drift", caption, Chart("Drift: NDCG@10, all ranked clicks", caption, labels, series, marks))


def quality_series(points: Mapping[str, Mapping[int, Any]], column: str, line: Sequence[Epoch]) -> list[Series]:
    """Return a series a variant, and one of chance: that of the variant with the most ranks."""

    def values(by_epoch: Mapping[int, Any], name: str) -> list[float | None]:
        return [getattr(by_epoch[e.number], name) if e.number in by_epoch else None for e in line]

    series = [
        Series(variant, values(points[variant], column), colour, strong=variant == "mc2sf")
        for colour, variant in enumerate(ordered(points))
    ]
    fullest = max(points.values(), key=lambda by_epoch: sum(point.n for point in by_epoch.values()))
    return [*series, Series("chance", values(fullest, f"chance_{column}"), CHANCE_COLOUR, dashed=True)]


def release_marks(decisions: Sequence[Any], line: Sequence[Epoch]) -> list[Mark]:
    """Mark each decision that changed something: retrains and rollbacks by a line, the learner's by a tick."""
    place = {epoch.number: index for index, epoch in enumerate(line)}
    return [
        Mark(place[d.epoch], f"v{d.release}" + (" learner" if small else ""), small)
        for d in decisions
        if d.outcome != "rejected" and d.epoch in place
        for small in (d.outcome == "learner",)
    ]


def ordered(names: Mapping[str, Any]) -> list[str]:
    """Return variants in the order of their colours, unknown ones at the end."""
    return [v for v in VARIANTS if v in names] + sorted(v for v in names if v not in VARIANTS)


def brief(value: float) -> str:
    """Return a count or an amount with as many digits as it needs."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"
