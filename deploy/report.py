"""report.html: a run on one page that needs nothing but a browser.

In: the run's summary and its tables. Out: one HTML file with its style, script and pictures inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import sqlalchemy as sa

from deploy import history
from deploy.chart import Chart, Mark, Series
from models.ranking import METRICS
from streams import tables

VARIANTS = ("mc2sf", "fast", "f2s", "din", "popularity", "random")  # in the order of their colours; others come after
_BASELINES = ("popularity", "random")
_PAGES = Path(__file__).parent / "pages"


@dataclass(frozen=True)
class Figure:
    """A chart and what the page says about it."""

    name: str
    caption: str
    chart: Chart


def write(summary: Mapping[str, Any], engine: sa.Engine, run: str, out: Path) -> Path:
    """Write the report of `run` to `out` and return it. Raises LookupError where the tables do not know the run."""
    with engine.connect() as connection:
        row = connection.execute(sa.select(tables.runs).where(tables.runs.c.run == run)).one_or_none()
        if row is None:
            raise LookupError(f"no run {run!r} in these tables")
        line = history.epochs(connection, run)
        made = history.releases(connection, run)
        context = {
            "summary": summary,
            "run": run,
            "source": row.source,
            "created": moment(row.created_wall),
            "settings": {**row.settings, **summary.get("settings", {})},
            "versions": summary.get("versions") or row.versions,
            "figures": figures(connection, run, line),
            "releases": made,
            "decisions": history.decisions(connection, run),
            "slates": history.slates(connection, run),
            "click_uploads": history.count(connection, run, tables.click_uploads),
            "interactions": history.count(connection, run, tables.interactions),
            "variants": ordered(summary.get("online", {})),
            "metrics": METRICS,
            "first": moment(line[0].time) if line else "",
            "last": moment(line[-1].time) if line else "",
        }
    out.write_text(_environment().get_template("report.html.j2").render(context), encoding="utf-8")
    return out


def figures(connection: sa.Connection, run: str, line: Sequence[history.Epoch]) -> list[Figure]:
    """Return the charts of a run, those without any data left out."""
    labels = history.labels(line)
    marks = release_marks(history.decisions(connection, run), line)
    shown = []
    for subset, whose in (
        ("all", "all evaluated clicks"),
        ("collaborative", "clicks with a delayed history and an r2"),
    ):
        points = history.quality(connection, run, subset, "sliding")
        for column, metric in (("hr_10", "HR@10"), ("ndcg_10", "NDCG@10")):
            if points:
                title = f"{metric} over event time: {whose}"
                caption = "Over a sliding window; vertical lines are releases, the grey line is what chance gives."
                chart = Chart(title, caption, labels, quality_series(points, column, line), marks)
                shown.append(Figure(f"{subset}-{column}", caption, chart))
    uploads = history.uploads(connection, run, line)
    if any(uploads):
        title, caption = "Negative memories uploaded", "r2 sent from devices to the cloud in each epoch."
        series = [Series("r2", [float(n) for n in uploads], 0)]
        shown.append(Figure("uploads", caption, Chart(title, caption, labels, series, marks, _count, from_zero=True)))
    sums = history.traffic(connection, run)
    if sums:
        title, caption = "Bytes an evaluated click", "Between device and cloud, request and answer."
        per = [sums.get(epoch.number) for epoch in line]
        series = [
            Series("up", [None if s is None else s[1] / s[0] for s in per], 1),
            Series("down", [None if s is None else s[2] / s[0] for s in per], 0),
        ]
        shown.append(Figure("bytes", caption, Chart(title, caption, labels, series, marks, _count, from_zero=True)))
    return shown


def quality_series(points: Mapping[str, Mapping[int, Any]], column: str, line: Sequence[history.Epoch]) -> list[Series]:
    """Return a series a variant, and one of chance."""

    def values(by_epoch: Mapping[int, Any], name: str) -> list[float | None]:
        return [getattr(by_epoch[e.number], name) if e.number in by_epoch else None for e in line]

    series = [
        Series(variant, values(points[variant], column), colour, variant in _BASELINES, variant == "mc2sf")
        for colour, variant in enumerate(ordered(points))
    ]
    first = next(iter(points.values()))
    return [*series, Series("chance", values(first, f"chance_{column}"), 9, dashed=True)]


def release_marks(decisions: Sequence[Any], line: Sequence[history.Epoch]) -> list[Mark]:
    """Mark each decision that changed something: retrains and rollbacks by a line, the learner's by a tick."""
    place = {epoch.number: index for index, epoch in enumerate(line)}
    return [
        Mark(
            place[d.epoch],
            f"v{d.release}" if d.outcome != "learner" else f"v{d.release} learner",
            d.outcome == "learner",
        )
        for d in decisions
        if d.outcome != "rejected" and d.epoch in place
    ]


def ordered(names: Mapping[str, Any]) -> list[str]:
    """Return variants in the order of their colours, unknown ones at the end."""
    return [v for v in VARIANTS if v in names] + sorted(v for v in names if v not in VARIANTS)


def moment(ms: int) -> str:
    """Return a time in ms as a date and time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _size(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if abs(value) < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": _number, "size": _size, "moment": moment}
    return environment
