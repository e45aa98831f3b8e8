"""`mc2sf data`: prepare and describe a log before it is replayed; and the preparation that `run` and `replay` share."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from deploy.cli.data.formats import data_convert, data_formats
from deploy.cli.groups import group
from deploy.cli.options import JsonOption, SelectionOptions, flattened
from deploy.cli.source_argument import SourceArgument, parse_source
from deploy.console import Table, print_json, terminal
from replay.errors import OnError
from replay.prepare.log_account import not_accepted
from replay.prepare.plan import Options, Plan
from replay.prepare.prepare import prepare
from replay.times import utc

app = group("Inspect and convert logs before they are replayed.")
app.command("formats")(data_formats)
app.command("convert")(data_convert)
console = terminal()


@app.command("inspect")
@flattened
def data_inspect(
    *,
    source: SourceArgument,
    options: SelectionOptions,
    on_error: Annotated[
        OnError | None,
        typer.Option(help="At an invalid row: stop, or skip it.  [default: skip, then exit code 1]"),
    ] = None,
    as_json: JsonOption = False,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Only print a map for --map, guessed from the first rows.")
    ] = False,
) -> None:
    """Describe a log: users, items, span of time, kinds of events, ties in time, refused rows and the reasons.

    Counts and lists the rows that can't be read, and reports likely mistakes with file and line: nearly equal names,
    repeated rows, impressions that last too long, stray times. The exit code is 1 if `mc2sf run` would refuse the log:
    for rows that can't be read without --on-error skip, and for a finding without --accept.
    """
    if suggest:
        from replay.suggest.suggestion import suggestion

        console.print(suggestion(source, options.log_map()), highlight=False, soft_wrap=True, end="")
        return
    with TemporaryDirectory(prefix="mc2sf-") as folder:
        given = replace(options.selected(on_error or "skip"), accept=None)
        shown = terminal(stderr=True) if as_json else console
        plan = prepared(source, given, Path(folder), shown, describe=True)
    if as_json:
        print_json(plan.description)
    else:
        console.print(_table(plan))
        print_findings(plan, console)
    refused = not_accepted(plan.findings, frozenset(options.accept or ()))
    raise typer.Exit(1 if refused or (plan.refused and on_error is None) else 0)


def _table(plan: Plan) -> Table:
    log, account = plan.contents, plan.account
    table = Table(title=plan.source, show_header=False)
    longest = timedelta(milliseconds=plan.longest_impression)
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
        ("impressions", f"{log.impressions:,}; {plan.without_impression:,} events of the source have none"),
        ("longest, largest impression", f"{longest}, {plan.largest_impression:,} events"),
        ("ties in time", f"{log.ties:,} events in the same ms as another impression group of the same user"),
        ("rows refused", f"{sum(plan.refused.values()):,}"),
        ("rows", account.sentence()),
    ):
        table.add_row(name, value)
    return table


def prepared(
    source: str, options: Options, folder: Path, console: Console, *, resume: bool = False, describe: bool = False
) -> Plan:
    """Prepare SOURCE in `folder`; shows the progress. `resume` and `describe` are those of `prepare`."""
    with console.status(f"reading {source}") as status:
        return prepare(
            parse_source(source, options.log_map),
            options,
            folder,
            resume=resume,
            describe=describe,
            progress=lambda task, rows: status.update(f"{task}: {rows:,} rows"),
        )


def print_findings(plan: Plan, console: Console) -> None:
    """Print the number of refused rows by reason and the first of them, and what was found in the others."""
    lines = []
    if plan.refused:
        total, first = sum(plan.refused.values()), plan.refused_first
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.refused.items())
        more = "" if total == len(first) else f"; the first {len(first)}"
        lines += [f"{total:,} rows refused: {reasons}{more}:", *(f"  {text}" for text in first)]
    for finding in plan.findings:
        lines += [f"{finding.name}: {finding.sentence}", *(f"  {text}" for text in finding.first)]
    if lines:
        console.print("\n".join(lines), highlight=False, soft_wrap=True)
