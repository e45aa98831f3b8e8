"""`mc2sf compare`: metrics of several runs and their differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD

from deploy.cli.options import JsonOption
from deploy.console import Table, print_json, terminal
from deploy.user_error import UserError

if TYPE_CHECKING:
    from deploy.analysis.comparison import RunDifference

console = terminal()


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Run ids, --out folders of runs, or folders of `mc2sf run --seeds`."),
    ],
    metric: Annotated[str, typer.Option(help="Metric to compare.")] = "ndcg@10",
    as_json: JsonOption = False,
) -> None:
    """Compare runs with the first one, with 95 % intervals by users.

    Clicks that both runs evaluated are compared in pairs; if they have too few in common, the runs are compared
    unpaired, and the command says so. With --json all metrics are printed.
    """
    from deploy import analysis
    from models.evaluation.metrics import METRICS

    if len(runs) < 2:
        raise UserError("name at least two runs")
    if metric not in METRICS:
        raise UserError(f"--metric {metric!r}: known are {', '.join(METRICS)}")
    with console.status("reading the ranked clicks"):
        compared = analysis.compare(*runs)
    if as_json:
        print_json(compared)
        return
    for run in compared.runs:
        if not run.clicks:
            console.print(f"{run.run} has no evaluated clicks", soft_wrap=True)
    table = Table("run", "variant", metric, "95 % interval", "clicks", "users", box=SIMPLE_HEAD, padding=(0, 1))
    for run in compared.runs:
        for variant, metrics in run.metrics.items():
            value = metrics[metric]
            interval = "" if value.low is None else f"{value.low:.4f} to {value.high:.4f}"
            table.add_row(run.run, variant, f"{value.value:.4f}", interval, f"{run.clicks:,}", f"{run.users:,}")
    console.print(table)
    for difference in compared.differences:
        console.print(f"{difference.b} minus {difference.a}, {metric}: {difference.explanation}.", soft_wrap=True)
        console.print(differences(difference, metric))


def differences(difference: RunDifference, metric: str) -> Table:
    """Return a table of the difference of each variant, with its 95 % interval."""
    from deploy.report.terminal import difference_cells

    table = Table("variant", "difference", "95 % interval", "", box=SIMPLE_HEAD, padding=(0, 1))
    for variant, by_metric in difference.variants.items():
        table.add_row(variant, *difference_cells(by_metric[metric]), by_metric[metric].verdict)
    return table
