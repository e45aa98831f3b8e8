"""`mc2sf experiment NAME`: the paper's tables and figures, and variations of them, on any source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.cli import options
from deploy.experiments.data.protocol import MinCount, Positives, Rule
from deploy.experiments.results.result import Result, Tuning
from models.evaluation.metrics import METRICS
from replay.sources.source import parse

if TYPE_CHECKING:
    from deploy.experiments.definitions.experiment import Experiment

console = Console()


Name = Literal[
    "table2",
    "table3",
    "ablation",
    "reference",
    "sensitivity",
    "losses",
    "encoders",
    "heads",
    "priors",
    "collaboration",
    "exposures",
    "window",
    "start",
    "case-study",
    "tune",
]


def experiment(
    name: Annotated[Name, typer.Argument(help="which table or figure")],
    data: Annotated[str, typer.Option("--data", metavar="SOURCE", help="as for `mc2sf run`")],
    users: options.UsersOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="fits of each model, from other weights")] = 3,
    candidates: Annotated[
        Rule | None, typer.Option(help="a click among 99 of these, or among all [default: uniform]")
    ] = None,
    positives: Annotated[
        Positives | None,
        typer.Option(help="clicks: ratings from 4 up (the others are exposures), or all [default: rated]"),
    ] = None,
    min_count: Annotated[
        MinCount | None, typer.Option(help="20 interactions at least of users, or of items too [default: users]")
    ] = None,
    exposures: options.PolicyOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="of each fit at most: for a quick trial")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="of torch [default: all cores]")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="results: NAME_DATA.json, .svg and README.md")] = Path(
        "benchmarks/paper"
    ),
    work: Annotated[Path, typer.Option(metavar="DIR", help="sorted logs, fits and cells, kept when cut")] = Path(
        "runs/experiments"
    ),
    cells: Annotated[
        Path | None, typer.Option(metavar="DIR", help="cells: ranks of all test clicks [default: WORK/cells]")
    ] = None,
) -> None:
    """Run an experiment of the paper on SOURCE.

    Every cell is kept, so an interrupted experiment continues. After each cell the result `DIR/NAME_DATA.json` and the
    page `DIR/README.md` of all results in DIR are written again. Epochs and hyperparameters are chosen on validation
    clicks. `--users N` samples users by a hash of their names.
    """
    import torch

    from deploy.experiments.definitions.catalogue import EXPERIMENTS
    from deploy.experiments.definitions.experiment import Asked
    from deploy.experiments.results import page
    from deploy.experiments.runner import runner, tuning

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = called(name, EXPERIMENTS)
    given = {"candidates": candidates, "positives": positives, "min_count": min_count, "exposures": exposures}
    wanted: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if exposures is not None and positives is None:  # ratings below 4 are exposures, or clicks as all others
        wanted["positives"] = "rated" if exposures == "rated" else "all"
    protocol = replace(chosen.protocol, **wanted)
    recipes = chosen.recipes if epochs is None else chosen.recipes.capped(epochs)
    of = Asked(parse(data), protocol, recipes, users, seeds, epochs, chosen.protocol)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name)

        def told(fit: str, epoch: int, loss: float, score: float) -> None:
            text = f"{fit}, epoch {epoch + 1}: loss {loss:.4f}, validation NDCG@10 {score:.4f}"
            progress.update(task, description=text)

        def reading(what: str, rows: int) -> None:
            progress.update(task, description=f"{what} {rows:,}")

        benches = runner.Benches(of, work, told, reading)
        out.mkdir(parents=True, exist_ok=True)
        results: Iterator[Result | Tuning]
        if name == "tune":
            results, total = tuning.tune(of, benches, out), sum(len(tuned.trials) for tuned in tuning.TUNED)
        else:
            results = runner.run(chosen, of, benches, cells or work / "cells", out)
            total = seeds * len(chosen.arms(of))
        progress.update(task, total=total)
        for result in results:
            page.write(out)
            progress.advance(task)
            if not console.is_terminal:
                console.print(newest(result), highlight=False, soft_wrap=True)
    console.print(trials(tuning.best(result)) if isinstance(result, Tuning) else means(result))
    console.print(f"written to {out}, with a page README.md", highlight=False)


def called(name: Name, experiments: Iterable[Experiment]) -> Experiment:
    """The experiment of that name; `tune` chooses under the protocol of table2. Raises KeyError where there is none."""
    return {each.name: each for each in experiments}["table2" if name == "tune" else name]


def newest(result: Result | Tuning) -> str:
    """Return the cell or trial that was done last as a line of a log."""
    if isinstance(result, Tuning):
        trial = result.trials[-1]
        return f"{trial.net} {trial.tried}: validation NDCG@10 {trial.validation:.4f} in {trial.epochs} epochs"
    row = result.rows[-1]
    return (
        f"{row.model}, seed {row.seed}: NDCG@10 {row.metrics['ndcg@10']:.4f}, {row.epochs} epochs, {row.seconds:.0f} s"
    )


def trials(best: dict[str, dict[str, float]]) -> Table:
    """Return a table of the values that were chosen for each net."""
    table = Table("net", "best of its trials on validation clicks")
    for net, values in best.items():
        table.add_row(net, ", ".join(f"{name} {value:g}" for name, value in values.items()))
    return table


def means(result: Result) -> Table:
    """Return a table of the mean metrics of each model over seeds."""
    table = Table("model", *METRICS, title=f"{result.experiment}, {result.data}")
    for model in result.models:
        rows = result.of_model(model)
        table.add_row(model, *(f"{fmean(row.metrics[metric] for row in rows):.4f}" for metric in METRICS))
    return table
