"""The tables that a run prints on the terminal when it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console

from deploy.console import Table
from deploy.report.intervals import Intervals, MetricDifference, MetricInterval
from deploy.report.summary import METRICS, PluginMetric, Qualities, Summary
from deploy.report.variants import ordered
from streams.prequential.live_differences import LiveDifference

_COMPARED = ("variant", "minus", "difference", "95 % interval", "")  # columns


def show(console: Console, summary: Summary, folder: Path) -> None:
    """Print the end of a run: warnings, quality, flow, and commands to try next."""
    for warning in summary.warnings:
        console.print(warning, style="bold red", markup=False)
    title = "online = offline" if summary.online == summary.offline else "online"  # a user was forgotten
    console.print(quality(summary.online, f"{title}, all outcomes", summary.online_intervals))
    if summary.plugin_metrics:
        console.print(by_plugins(summary.plugin_metrics, "the same outcomes, by metrics of plugins"))
    last = quality(summary.last_quarter, "the newest quarter of the outcomes", summary.last_quarter_intervals)
    if summary.optimum:
        last.add_row("optimum", *(f"{value:.4f}" for value in summary.optimum.values()), "", "", style="italic")
    console.print(last)
    for table in _differences(summary):
        console.print(table)
    if summary.online_collaborative:
        console.print(quality(summary.online_collaborative, "users with a delayed history and an r2 in the cloud"))
    if summary.cold:
        console.print(quality(summary.online_known, "known: the release knew the item"))
        console.print(
            quality(summary.online_cold, "cold: the release did not know the item, or too few items for a list")
        )
    if summary.experiment:
        variants = ", ".join(sorted(summary.experiment.metrics))
        console.print(f"All {summary.outcomes:,} lists and ranks of {variants} are the experiment's.\n")
    table = Table(title="flow", show_header=False)
    kinds = [entry.kind for entry in summary.releases]
    for name, value in (
        ("rows", summary.log.account.sentence() if summary.log else "unknown"),
        ("events sent, applied", f"{summary.events_sent:,}, {summary.events_applied:,}"),
        *([("events forgotten", f"{summary.events_forgotten:,}")] if summary.events_forgotten else []),
        ("events per second", f"{summary.events_per_second:,.0f}"),
        ("requests, outcomes", f"{_count(summary.rank_requests)}, {summary.outcomes:,}"),
        ("clicks not ranked", f"{summary.not_ranked:,} (no other item was known yet)"),
        ("r2 uploads", f"{summary.r2_uploads:,}"),
        ("releases", ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))),
        ("dead letters", f"{summary.dead_letters:,}"),
        ("faults", ", ".join(f"{n:,} {fault}" for fault, n in (summary.faults or {}).items()) or "none"),
        ("freshness p50, p99 ms", f"{summary.freshness_ms.p50}, {summary.freshness_ms.p99}"),
        *([("answer p50, p99 ms", f"{answer.p50}, {answer.p99}")] if (answer := summary.answer_ms) else []),
        ("peak memory MB", f"{sum(summary.peak_memory_mb.values()):,.0f} in all"),
        ("digest", summary.digest),
    ):
        table.add_row(name, value)
    console.print(table)
    later = f"  mc2sf evaluate {folder} --release 1      rank the same clicks with release 1\n"
    console.print(
        f"report: {folder / 'report.html'}\nsummary: {folder / 'summary.json'}\n\nTry next:\n"
        f"{later if any(entry.version == 1 for entry in summary.releases) else ''}"
        f"  mc2sf releases list {folder}             list the releases and the losses that the gate compared\n"
        f"  mc2sf data inspect log:FILE              describe your own log; then replay it with `mc2sf run`",
        highlight=False,
        soft_wrap=True,  # no path is broken
    )


def quality(metrics: Qualities, title: str, intervals: Intervals | None = None) -> Table:
    """Return a table of metrics with one row per variant, and its 95 % interval below if there are intervals."""
    table = _table(title, "variant", *METRICS, "n", "chance@10")
    for variant in reversed(ordered(metrics)):
        row = metrics[variant]
        numbers = [_score(row.metric(name)) for name in METRICS]
        table.add_row(variant, *numbers, f"{row.n:,}", _score(row.chance_hr_10))
        if intervals is not None and variant in intervals.metrics:
            widths = (_half_width(intervals.metrics[variant][name]) for name in METRICS)
            table.add_row("  95 %", *widths, style="dim")
    return table


def differences(intervals: Intervals, title: str) -> Table:
    """Return a table of differences to `fast` and to the best baseline, with 95 % intervals by users."""
    table = _table(title, *_COMPARED)
    for variant, reference, difference in intervals.to_references("ndcg@10"):
        table.add_row(variant, reference, *difference_cells(difference), difference.verdict)
    return table


def difference_cells(each: MetricDifference | LiveDifference) -> tuple[str, str]:
    """Return a difference and its interval, empty without one, as text."""
    return f"{each.difference:+.4f}", "" if each.low is None else f"{each.low:+.4f} to {each.high:+.4f}"


def _table(title: str, *columns: str, min_width: int | None = None) -> Table:
    return Table(*columns, title=title, box=SIMPLE_HEAD, show_edge=False, padding=0, min_width=min_width)


def _differences(summary: Summary) -> Iterator[Table]:
    """Yield the tables of differences between variants."""
    for intervals, clicks in (
        (summary.online_intervals, "all outcomes"),
        (summary.last_quarter_intervals, "the newest quarter"),
    ):
        if intervals and intervals.differences:
            yield differences(intervals, f"NDCG@10 on the same clicks, {clicks}")
    if summary.live_differences:
        yield live(summary.live_differences)


def live(differences: Sequence[LiveDifference]) -> Table:
    """Return a table of differences with intervals that hold at all times."""
    table = _table("NDCG@10 on the same clicks, intervals that hold at all times", *_COMPARED)
    for each in differences:
        since = "not distinguishable" if each.since is None else f"distinguishable since epoch {each.since}"
        table.add_row(each.variant, each.minus, *difference_cells(each), since)
    return table


def _half_width(interval: MetricInterval) -> str:
    return "" if interval.low is None or interval.high is None else f"±{(interval.high - interval.low) / 2:.4f}"


def by_plugins(metrics: Mapping[str, Mapping[str, PluginMetric]], title: str) -> Table:
    """Return a table of the metrics that are plugins, with one row per variant and one of chance."""
    table = _table(title, "variant", *metrics, min_width=len(title))
    first = next(iter(metrics.values()))
    for variant in ordered(first):
        table.add_row(variant, *(_score(each[variant].online) for each in metrics.values()))
    table.add_row("chance", *(_score(each["random"].chance) for each in metrics.values()), style="italic")
    return table


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
