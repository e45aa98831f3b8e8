"""`mc2sf data`: prepare and describe a log before it is replayed; and the preparation that `run` and `replay` share."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli.options import SelectionOptions, SourceArgument, flattened, parse_source
from deploy.console import terminal
from replay.errors import OnError
from replay.prepare.plan import Options, Plan
from replay.prepare.prepare import prepare
from replay.times import utc

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help="Logs, before they are replayed."
)
console = terminal()


@app.callback()
def _group() -> None:
    """Logs, before they are replayed."""


@app.command("inspect")
@flattened
def data_inspect(
    *,
    source: SourceArgument,
    options: SelectionOptions,
    on_error: Annotated[
        OnError | None,
        typer.Option(help="A bad row stops the command, or is skipped.  [default: skip, then exit code 1]"),
    ] = None,
) -> None:
    """Describe a log: users, items, span of time, kinds of events, ties in time, refused rows and the reasons.

    Rows that can't be read are counted and listed. `mc2sf run` would stop at the first of them, so the exit code is 1
    then, unless --on-error skip allows to leave them out.
    """
    with TemporaryDirectory(prefix="mc2sf-") as folder:
        plan = prepared(source, options.selected(on_error or "skip"), Path(folder), console)
    log = plan.contents
    table = Table(title=source, show_header=False)
    for name, value in (
        ("events", f"{log.rows:,}"),
        ("users", f"{log.users:,}"),
        ("items", f"{log.items:,}"),
        ("span", f"{utc(log.first)} to {utc(log.last)} (UTC)"),
        ("clicks", f"{log.clicks:,}"),
        ("past clicks (never ranked)", f"{log.past_clicks:,}"),
        ("exposures", f"{log.exposures:,}"),
        ("candidates (ranking only)", f"{log.candidates:,}"),
        ("exposure policy", plan.policy + (": as the log has them" if log.exposures_logged else "")),
        ("impressions", f"{log.impressions:,}"),
        ("ties in time", f"{log.ties:,} events at the same time as another impression group of the same user"),
        ("rows refused", f"{sum(plan.refused.values()):,}"),
    ):
        table.add_row(name, value)
    console.print(table)
    print_refused(plan, console)
    raise typer.Exit(1 if plan.refused and on_error is None else 0)


def prepared(source: str, options: Options, folder: Path, console: Console) -> Plan:
    """Prepare SOURCE in `folder`; shows the progress."""
    with console.status(f"reading {source}") as status:
        return prepare(
            parse_source(source), options, folder, progress=lambda task, rows: status.update(f"{task}: {rows:,} rows")
        )


def print_refused(plan: Plan, console: Console) -> None:
    """Print the number of rows that were skipped, by reason, and the first of them."""
    if not plan.refused:
        return
    total, first = sum(plan.refused.values()), plan.refused_first
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.refused.items())
    more = "" if total == len(first) else f"; the first {len(first)}"
    lines = [f"{total:,} rows refused: {reasons}{more}:", *(f"  {text}" for text in first)]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
