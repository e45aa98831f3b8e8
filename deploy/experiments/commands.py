"""`mc2sf experiment NAME`: the paper's tables and figures, and variations of them, on any source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.cli.data.map_options import MapOptions
from deploy.cli.options import MetricOption, PolicyOption, UsersOption, VariantOption, choice, flattened
from deploy.console import Table, terminal
from deploy.experiments.data.protocol import RULES, MinCount, Positives
from deploy.experiments.results.result import Result, Tuning
from replay.prepare.plan import exposure_policy
from replay.sources.source import parse
from streams.plugins.plugin import is_name, named, recorded

if TYPE_CHECKING:
    from deploy.experiments.definitions.experiment import Experiment

console = terminal()


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


@flattened
def experiment(
    *,
    name: Annotated[Name, typer.Argument(help="Name of the table or figure.")],
    options: MapOptions,
    data: Annotated[
        str, typer.Option("--data", "--source", metavar="SOURCE", help="Log to use, written as for `mc2sf run`.")
    ],
    users: UsersOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of fits of each model, with different seeds.")] = 3,
    candidates: Annotated[
        str | None,
        typer.Option(
            parser=choice(*RULES),
            metavar="|".join([*RULES, "MODULE:NAME"]),
            help="Rule by which 99 negatives are drawn per click; full: all items.  [default: uniform]",
        ),
    ] = None,
    positives: Annotated[
        Positives | None,
        typer.Option(help="Ratings that count as clicks: those from 4 up (rated), or all.  [default: rated]"),
    ] = None,
    min_count: Annotated[
        MinCount | None,
        typer.Option(help="Drop users, or both users and items, with fewer than 20 interactions.  [default: users]"),
    ] = None,
    exposures: PolicyOption = None,
    metric: MetricOption = None,
    variant: VariantOption = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of epochs per fit, for a quick trial.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of torch threads.  [default: one per core]")
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the results: NAME_DATA.json, .svg and README.md.")
    ] = Path("benchmarks/paper"),
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for sorted logs, fits and cells, from which a run resumes.")
    ] = Path("runs/experiments"),
    cells: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for cells, the ranks of all test clicks.  [default: WORK/cells]"),
    ] = None,
) -> None:
    """Run an experiment of the paper on SOURCE.

    A cell is one model fitted with one seed. Finished cells are stored, so that an interrupted experiment continues.
    After each cell the result `DIR/NAME_DATA.json` and the page `DIR/README.md` of all results in DIR are updated.
    Epochs and hyperparameters are chosen on validation clicks. `--users N` samples users by a hash of their ids.
    """
    import torch

    from deploy.experiments.definitions.catalogue import EXPERIMENTS
    from deploy.experiments.definitions.experiment import Request, arms_of
    from deploy.experiments.results import page
    from deploy.experiments.runner import runner, tuning
    from deploy.experiments.training.plugin_model import plugin_model
    from streams.plugins.loaded import setting

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = called(name, EXPERIMENTS)
    usual = chosen.protocol
    if exposures is not None and positives is None:  # ratings below 4 are exposures, or clicks like all others
        positives = "rated" if exposures == "rated" else "all"
    protocol = replace(
        usual,
        candidates=candidates or usual.candidates,
        positives=positives or usual.positives,
        min_count=min_count or usual.min_count,
        exposures=exposures or usual.exposures,
    )
    hyperparameters = chosen.hyperparameters if epochs is None else chosen.hyperparameters.capped(epochs)
    source = parse(data, options.log_map())
    parts = [source.plugin, exposure_policy(protocol.exposures)[1]]
    parts += [named("candidates", protocol.candidates)] if is_name(protocol.candidates) else []
    plugins = recorded(setting(metrics=metric, variants=variant, others=[plugin for plugin in parts if plugin]))
    request = Request(source, protocol, hyperparameters, users, seeds, epochs, chosen.protocol, plugins=tuple(plugins))
    models = [plugin_model(plugin) for plugin in plugins if plugin.kind == "variant"]
    usual_arms = chosen.arms
    chosen = replace(chosen, arms=lambda request: usual_arms(request) + arms_of(*models)(request))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name)

        def fitting(fit: str, epoch: int, loss: float, score: float) -> None:
            text = f"{fit}, epoch {epoch + 1}: loss {loss:.4f}, validation NDCG@10 {score:.4f}"
            progress.update(task, description=text)

        def reading(what: str, rows: int) -> None:
            progress.update(task, description=f"{what} {rows:,}")

        trainers = runner.Trainers(request, work, fitting, reading)
        out.mkdir(parents=True, exist_ok=True)
        results: Iterator[Result | Tuning]
        if name == "tune":
            results, total = tuning.tune(request, trainers, out), sum(len(tuned.trials) for tuned in tuning.TUNED)
        else:
            results = runner.run(chosen, request, trainers, cells or work / "cells", out)
            total = seeds * len(chosen.arms(request))
        progress.update(task, total=total)
        for result in results:
            page.write(out)
            progress.advance(task)
            if not console.is_terminal:
                console.print(newest(result), highlight=False, soft_wrap=True)
    console.print(trials(tuning.best(result)) if isinstance(result, Tuning) else means(result))
    console.print(f"written to {out}, with a page README.md", highlight=False)
    if find_spec("matplotlib") is None:
        console.print("no figures: they need matplotlib (`pip install 'mc2sf[plots]'`)", highlight=False)


def called(name: Name, experiments: Iterable[Experiment]) -> Experiment:
    """Return the experiment called `name`; `tune` has the protocol of table2. Raises KeyError for an unknown name."""
    return {each.name: each for each in experiments}["table2" if name == "tune" else name]


def newest(result: Result | Tuning) -> str:
    """Return a line about the cell or trial that was computed last."""
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
    table = Table("model", *result.metrics, title=f"{result.experiment}, {result.data}")
    for model in result.models:
        rows = result.of_model(model)
        table.add_row(model, *(f"{fmean(row.metrics[metric] for row in rows):.4f}" for metric in result.metrics))
    return table
