"""Figures of runs: metrics over event time, metrics with intervals, and differences between runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import date2num
from matplotlib.figure import Figure

from deploy.analysis.comparison import Comparison
from deploy.analysis.opened_run import Run
from deploy.experiments.results.styles import LOOK, STYLES, Style
from deploy.report.variants import ordered
from deploy.user_error import UserError
from models.evaluation.metrics import METRICS

_STYLES = {
    "mc2sf": STYLES["MC2-SF"],
    "fast": STYLES["fast alone"],
    "f2s": STYLES["DIN w/ F2S"],
    "din": STYLES["DIN"],
    "river": STYLES["FM"],
    "popularity": STYLES["popularity"],
    "random": Style("#bbbbbb", "o"),
}


def over_time(run: Run, metric: str = "ndcg@10", variants: Sequence[str] | None = None) -> Figure:
    """Return a line per variant: the sliding mean of a metric over event time, with a line at each retrain."""
    column = _column(metric)
    points = run.arrow("metric_points").to_pylist()
    shown = [p for p in points if p["subset"] == "all" and p["form"] == "sliding" and p[column] is not None]
    with _figure(f"{run.source}: {metric} of the newest clicks", (8, 3.6)) as (figure, (axes,)):
        for variant in variants or ordered({point["variant"] for point in shown}):
            line = [(point["time"], point[column]) for point in shown if point["variant"] == variant]
            look = _style(variant)
            axes.plot(
                *zip(*line, strict=True) if line else ((), ()),
                color=look.colour,
                label=variant,
                linewidth=2.4 if variant == "mc2sf" else 1.4,
            )
        for release in run.summary.releases:
            if release.kind == "retrain":
                axes.axvline(_date(release.trained_until), color="#cccccc", linewidth=0.8, zorder=0)
        axes.set_ylabel(metric)
        axes.tick_params(axis="x", rotation=20)
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def with_intervals(run: Run, metrics: Sequence[str] = ("hr@10", "ndcg@10")) -> Figure:
    """Return a panel per metric: a dot per variant over all its clicks, with its 95 % interval by users."""
    intervals = run.intervals()
    variants, title = ordered(intervals.metrics), f"{run.source}: 95 % intervals by {intervals.users:,} users"
    with _figure(title, (8, 1.2 + 0.3 * len(variants)), len(metrics)) as (figure, panels):
        for axes, metric in zip(panels, metrics, strict=True):
            _column(metric)
            for y, variant in enumerate(variants):
                each = intervals.metrics[variant][metric]
                _dot(axes, y, variant, each.value, each.low, each.high)
            _rows(axes, metric, variants)
    return figure


def differences(comparison: Comparison, metric: str = "ndcg@10") -> Figure:
    """Return a panel per run that is compared with the first: the difference of each variant, with its interval."""
    _column(metric)
    of_runs = comparison.differences
    if not of_runs:
        raise UserError("a figure of differences needs two runs")
    variants = ordered({variant for each in of_runs for variant in each.variants})
    with _figure(f"{metric}, minus {of_runs[0].a}", (8, 1.2 + 0.3 * len(variants)), len(of_runs)) as (figure, panels):
        for axes, each in zip(panels, of_runs, strict=True):
            axes.axvline(0, color="#888888", linewidth=0.8)
            for y, variant in enumerate(variants):
                if variant in each.variants:
                    value = each.variants[variant][metric]
                    _dot(axes, y, variant, value.difference, value.low, value.high)
            _rows(axes, f"{each.b}, {'paired' if each.paired else 'unpaired'}", variants)
    return figure


def _dot(axes: Axes, y: int, variant: str, value: float, low: float | None, high: float | None) -> None:
    widths = None if low is None or high is None else ([max(0.0, value - low)], [max(0.0, high - value)])
    _style(variant).draw(axes, value, y, xerr=widths)


def _rows(axes: Axes, label: str, variants: Sequence[str]) -> None:
    axes.set_xlabel(label)
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.5, -0.5)


def _style(variant: str) -> Style:
    return _STYLES.get(variant, Style("#000000", "o"))


def _date(ms: int) -> float:
    return float(date2num(datetime.fromtimestamp(ms / 1000, UTC)))  # type: ignore[no-untyped-call]  # as matplotlib has it


def _column(metric: str) -> str:
    if metric not in METRICS:
        raise UserError(f"there is no metric {metric!r}, but {', '.join(METRICS)}")
    return metric.replace("@", "_")


@contextmanager
def _figure(title: str, size: tuple[float, float], panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure and its panels."""
    with mpl.rc_context(LOOK):
        figure = Figure(size, layout="constrained")
        figure.suptitle(title, fontweight="bold", fontsize=10, parse_math=False)
        axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        yield figure, list(axes)
