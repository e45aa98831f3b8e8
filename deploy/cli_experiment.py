"""`mc2sf experiment NAME`: the paper's tables and figures, and variations of them, on any source."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy import asked
from models.ranking import METRICS
from replay.source import parse

console = Console()


class Name(StrEnum):
    """The experiments."""

    table2 = "table2"
    table3 = "table3"
    ablation = "ablation"


class Candidates(StrEnum):
    """What a click is ranked against."""

    uniform = "uniform"
    popularity = "popularity"
    full = "full"


class Positives(StrEnum):
    """Which ratings are clicks."""

    rated = "rated"
    all = "all"


class MinCount(StrEnum):
    """What is dropped when it has fewer than 20 interactions."""

    users = "users"
    both = "both"


def experiment(
    name: Annotated[Name, typer.Argument(help="which table or figure")],
    data: Annotated[str, typer.Option("--data", metavar="SOURCE", help="as for `mc2sf run`")],
    users: asked.UsersOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="fits of each model, from other weights")] = 3,
    candidates: Annotated[Candidates, typer.Option(help="a click among 99 of these, or among all")] = (
        Candidates.uniform
    ),
    positives: Annotated[Positives, typer.Option(help="clicks: ratings from 4 up (others are exposures), or all")] = (
        Positives.rated
    ),
    min_count: Annotated[MinCount, typer.Option(help="at least 20 interactions of users, or of items too")] = (
        MinCount.users
    ),
    exposures: asked.PolicyOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="of each fit at most: for a quick trial")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="of torch [default: all cores]")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="results: NAME_DATA.json, .svg and README.md")] = Path(
        "benchmarks/paper"
    ),
    work: Annotated[Path, typer.Option(metavar="DIR", help="sorted logs, fits and cells, kept when cut")] = Path(
        "runs/experiments"
    ),
) -> None:
    """Run an experiment of the paper on SOURCE; every cell is kept, so a run that was cut goes on where it was.

    The result is written anew after each cell: `DIR/NAME_DATA.json`, and a page `DIR/README.md` of all results in DIR.
    Epochs and recipes are chosen on validation clicks. `--users N` samples users by a hash of their names.
    """
    import torch  # noqa: PLC0415 - only this command pays for its imports

    from deploy.experiments import page, running  # noqa: PLC0415 - the same
    from deploy.experiments.catalogue import EXPERIMENTS  # noqa: PLC0415 - the same
    from deploy.experiments.protocol import Protocol  # noqa: PLC0415 - the same
    from deploy.experiments.recipe import Recipes  # noqa: PLC0415 - the same

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = next(each for each in EXPERIMENTS if each.name == name.value)
    protocol = Protocol(
        candidates=candidates.value,
        positives=positives.value,
        min_count=min_count.value,
        exposures=exposures.value if exposures else None,
    )
    recipes = Recipes() if epochs is None else Recipes().capped(epochs)
    of = running.Asked(parse(data), protocol, recipes, users, seeds)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        total = seeds * len(chosen.arms(protocol, recipes))
        task = progress.add_task(name.value, total=total)

        def told(fit: str, epoch: int, loss: float, score: float) -> None:
            text = f"{fit}, epoch {epoch + 1}: loss {loss:.4f}, validation NDCG@10 {score:.4f}"
            progress.update(task, description=text)

        benches = running.Benches(
            of, work, told, lambda what, rows: progress.update(task, description=f"{what} {rows:,}")
        )
        for document in running.run(chosen, of, benches, work, out):
            result = document
            progress.advance(task)
    page.write(out)
    console.print(shown(result))
    console.print(f"written to {out}: {name.value}_{of.data}.json and README.md", highlight=False)


def shown(document: dict[str, Any]) -> Table:
    """The mean over seeds of each model as a table."""
    table = Table("model", *METRICS, title=f"{document['experiment']}, {document['data']}")
    for model in dict.fromkeys(row["model"] for row in document["rows"]):
        rows = [row["metrics"] for row in document["rows"] if row["model"] == model]
        table.add_row(model, *(f"{fmean(row[metric] for row in rows):.4f}" for metric in METRICS))
    return table
