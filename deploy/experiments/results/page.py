"""The results page of a folder: every result with its figure, the paper's numbers and other published ones.

In: the JSON results. Out: README.md and one SVG per result, in the same folder. The whole page is generated.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from msgspec import structs

from deploy.experiments.definitions.catalogue import EXPERIMENTS
from deploy.experiments.results import published
from deploy.experiments.results.result import Result, ResultRow, Tuning, read_results, read_tunings

TITLES = {experiment.name: experiment.title for experiment in EXPERIMENTS}
FIRST = """# The paper's experiments

Made by `mc2sf experiment`; each section gives its command. The paper's candidate sets, its exposures on logs that
have none, its number of negatives and its tie rule are not published, and its HR@1 is far above what 99 uniform
negatives give anywhere else: compare orderings and relative gains with the paper, and absolute values with results
whose protocol is known. Every choice (epoch, hyperparameters) was made on validation clicks, never on test clicks.
Cells: mean over seeds (standard deviation, if there are several). A difference holds if its 95 % interval
(paired bootstrap over users, of these fits: how seeds differ is not in it) leaves out zero.
Figures: dots are means over seeds, lines their 95 % intervals (Student's t: how seeds differ).
Epochs with a +: a fit of that model was ended by its limit of epochs, not by its validation score.
[docs/experiments.md](../../docs/experiments.md) says what came out, and why it differs from the paper.
"""
_PATIENCE = 3  # least number of epochs without a better score that end a fit


def write(folder: Path, *, redraw: bool = False) -> Path:
    """Write README.md from all results in `folder`, and the figures that are missing or older than their result.

    With `redraw`, all figures are drawn again. Without matplotlib no figure is drawn.
    """
    parts = [FIRST]
    for result in read_results(folder, list(TITLES)):
        figure = folder / f"{result.experiment}_{result.data}.svg"
        written = figure.with_suffix(".json").stat().st_mtime_ns
        if redraw or not figure.exists() or figure.stat().st_mtime_ns < written:
            _draw(result, figure)
        parts += section(result, figure.name if figure.exists() else None)
    for tuning in read_tunings(folder):
        parts += trials(tuning)
    page = folder / "README.md"
    page.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    return page


def _draw(result: Result, path: Path) -> None:
    if find_spec("matplotlib") is None:
        path.unlink(missing_ok=True)  # it would be the figure of an older result
        return
    from deploy.experiments.results import plots  # noqa: PLC0415 - matplotlib is an extra

    path.write_text(plots.draw(result, TITLES[result.experiment]), encoding="utf-8")


def section(result: Result, figure: str | None) -> Iterator[str]:
    """Yield one result as Markdown."""
    settings = result.settings
    title, seeds = TITLES[result.experiment], len(settings.seeds)
    yield f"## {title}: {result.data}\n"
    run = f"{settings.cells.done} of {settings.cells.wanted} cells, {seeds} seed{'s' if seeds > 1 else ''} run so far"
    yield f"`{settings.command}`; {run}.\n"
    counts = ", ".join(f"{value:,} {name}" for name, value in structs.asdict(settings.counts).items())
    protocol = ", ".join(f"{name} {value}" for name, value in result.protocol.items())
    yield f"{counts}. Protocol: {protocol}.\n"
    yield from _table(result)
    if figure:
        yield f"![{title}]({figure})\n"
    yield from _order(result)
    yield from _costs(result)
    yield from _slices(result)
    yield from _differences(result)
    yield from result.cases or []


def _table(result: Result) -> Iterator[str]:
    names = result.metrics
    yield "| model | " + " | ".join(names) + " | seconds | epochs |"
    yield "|---|" + "---|" * (len(names) + 2)
    chance = result.settings.chance
    yield "| chance | " + " | ".join(f"{chance[metric]:.4f}" for metric in names) + " | | |"
    models = result.models
    best = {metric: max(models, key=lambda m: _mean(result, m, metric)) for metric in names}
    for model in models:
        rows = result.of_model(model)
        cells = []
        for metric in names:
            text = _mean_and_deviation([row.metrics[metric] for row in rows])
            cells.append(f"**{text}**" if best[metric] == model else text)
        seconds, epochs = (statistics.mean(v) for v in ([r.seconds for r in rows], [r.epochs for r in rows]))
        limited = "+" if any(map(_limited, rows)) else ""
        yield f"| {model} | " + " | ".join([*cells, f"{seconds:.0f}", f"{epochs:.0f}{limited}"]) + " |"
        paper = published.paper(result.experiment, result.data, model)
        if paper:
            yield f"| *{model}, paper* | " + " | ".join(_or_dash(paper.get(m)) for m in names) + " | | |"
        is_published = (result.experiment, result.data) == ("reference", "ml-1m")
        other = published.LEAVE_ONE_OUT.get(model) if is_published else None
        if other:
            yield f"| *{model}, published* | " + " | ".join(_or_dash(other.get(m)) for m in names) + " | | |"
    yield ""


def _limited(row: ResultRow) -> bool:
    """Return True if a fit ended at its limit of epochs, soon after its best score; item2vec's fit does not count."""
    curves = [curve for name, curve in row.validation.items() if name != "item2vec"]
    return any(len(curve) - curve.index(max(curve)) <= _PATIENCE for curve in curves)


def _order(result: Result) -> Iterator[str]:
    """Yield our order and the paper's order of the models that the paper has, by NDCG@5, which it gives everywhere."""
    theirs = {model: published.paper(result.experiment, result.data, model).get("ndcg@5") for model in result.models}
    numbers = {model: number for model, number in theirs.items() if number is not None}
    if len(numbers) < 2:
        return
    ours = sorted(numbers, key=lambda model: _mean(result, model, "ndcg@5"))
    paper = sorted(numbers, key=lambda model: numbers[model])
    yield f"Order by NDCG@5, the worst first. Ours: {' < '.join(ours)}. The paper's: {' < '.join(paper)}.\n"


COSTS = {
    "uploads_per_user": "uploads per user",
    "bytes_up_per_user": "bytes up per user",
    "bytes_down_per_request": "bytes down per request",
    "share_with_r2": "share with r2",
    "stale_exposures": "exposures that r2 lacks",
    "stale_hours_median": "hours since the last of its exposures (median)",
}


def _costs(result: Result) -> Iterator[str]:
    rows = [row for row in result.rows if row.seed == 1 and row.uploads_per_user is not None]
    if not rows:
        return
    yield "| r2 is uploaded | ndcg@10 | " + " | ".join(COSTS.values()) + " |"
    yield "|---|---|" + "---|" * len(COSTS)
    for row in rows:
        values = [getattr(row, name) for name in COSTS]
        costs = " | ".join("-" if value is None else str(value) for value in values)
        yield f"| {row.model} | {_mean(result, row.model, 'ndcg@10'):.4f} | {costs} |"
    yield ""


def _slices(result: Result) -> Iterator[str]:
    slices = result.slices
    if not slices:
        return
    least = [piece.least for piece in slices]
    names = [_from_to(first, after) for first, after in zip(least, [*least[1:], None], strict=True)]
    yield "NDCG@10 by the number of clicks, of all users in the slow phase, on the item of the test click:\n"
    yield "| model | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(slices)
    yield "| *test clicks* | " + " | ".join(f"{piece.clicks:,}" for piece in slices) + " |"
    for model in result.models:
        yield f"| {model} | " + " | ".join(f"{piece.ndcg[model]:.4f}" for piece in slices) + " |"
    yield ""


def _from_to(first: int, after: int | None) -> str:
    if after is None:
        return f"{first} and more"
    return str(first) if after == first + 1 else f"{first} to {after - 1}"


def trials(tuning: Tuning) -> Iterator[str]:
    """Yield all trials of a tuning as Markdown."""
    yield f"## Tuning: {tuning.data}\n"
    yield f"`{tuning.settings.command}`; judged on {tuning.settings.judged_on}, never on test clicks.\n"
    yield "| net | tried | validation | epochs |"
    yield "|---|---|---|---|"
    for trial in tuning.trials:
        values = ", ".join(f"{name} {value:g}" for name, value in trial.tried.items())
        yield f"| {trial.net} | {values} | {trial.validation:.4f} | {trial.epochs} |"
    yield ""


def _differences(result: Result) -> Iterator[str]:
    if not result.tests:
        return
    yield "| a - b | metric | difference | relative | 95 % interval | p | the paper's |"
    yield "|---|---|---|---|---|---|---|"
    for test in result.tests:
        if test.metric not in ("hr@1", "ndcg@10", "mrr"):
            continue
        of_b = _mean(result, test.b, test.metric)
        a, b = (published.paper(result.experiment, result.data, m).get(test.metric) for m in (test.a, test.b))
        gain = f"{a / b - 1:+.2%}" if a and b else ""
        relative = f"{test.difference / of_b:+.2%}" if of_b else "-"
        found = f"{test.difference:+.4f} | {relative}"
        interval = f"{test.low:+.4f} to {test.high:+.4f} | {test.p:.4f}"
        yield f"| {test.a} - {test.b} | {test.metric} | {found} | {interval} | {gain} |"
    yield ""


def _mean(result: Result, model: str, metric: str) -> float:
    return statistics.fmean(row.metrics[metric] for row in result.of_model(model))


def _mean_and_deviation(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ({statistics.stdev(values):.4f})" if len(values) > 1 else mean


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
