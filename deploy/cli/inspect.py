"""`mc2sf data`, `releases`, `recommend` and `doctor`: looking at logs, releases and the state of things."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.cli import options as asked
from deploy.cli.sources import parse
from deploy.doctor import examine
from deploy.runs import UserError, find
from replay.errors import OnError
from replay.prepare.prepare import prepare
from streams.database import schema
from streams.settings import Settings

data_app = typer.Typer(no_args_is_help=True, help="Logs, before they are replayed.")
releases_app = typer.Typer(no_args_is_help=True, help="The releases of a run.")
console = Console()
RunName = Annotated[str, typer.Argument(metavar="RUN", help="a run's id or its --out folder")]


def stamp(milliseconds: int) -> str:
    """Return event time as text, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


@data_app.command("inspect")
def data_inspect(
    source: asked.SourceArgument,
    exposures: asked.PolicyOption = None,
    start: asked.FromOption = None,
    end: asked.ToOption = None,
    limit: asked.LimitOption = None,
    users: asked.UsersOption = None,
    on_error: Annotated[
        OnError | None, typer.Option(help="a bad row ends the reading, or is skipped [default: exit code 1]")
    ] = None,
) -> None:
    """Say what a log holds: users, items, span, exposures logged or not, ties in time, rows refused and why.

    Rows that can't be read are counted and listed; as `mc2sf run` would stop at the first of them, the exit code is 1
    then, unless --on-error skip says that it may leave them out.
    """
    options = asked.options(
        speed="max",
        epoch=None,
        exposures=exposures,
        start=start,
        end=end,
        limit=limit,
        users=users,
        loops=1,
        on_error=on_error or "skip",
        seed=1,
    )
    with TemporaryDirectory(prefix="mc2sf-") as folder, console.status(f"reading {source}") as status:
        plan = prepare(
            parse(source), options, Path(folder), progress=lambda what, rows: status.update(f"{what}: {rows:,} rows")
        )
    inside = plan.contents
    table = Table(title=source, show_header=False)
    for name, value in (
        ("events", f"{inside.rows:,}"),
        ("users", f"{inside.users:,}"),
        ("items", f"{inside.items:,}"),
        ("span", f"{stamp(inside.first)} to {stamp(inside.last)} (UTC)"),
        ("clicks", f"{inside.clicks:,}"),
        ("past clicks (never ranked)", f"{inside.past_clicks:,}"),
        ("exposures", f"{inside.exposures:,}"),
        ("candidates (ranking only)", f"{inside.candidates:,}"),
        ("exposure policy", plan.policy + (": as the log has them" if inside.exposures_logged else "")),
        ("impressions", f"{inside.impressions:,}"),
        ("ties in time", f"{inside.ties:,} events at the same time as another unit of the same user"),
        ("rows refused", f"{sum(plan.refused.values()):,}"),
    ):
        table.add_row(name, value)
    console.print(table)
    asked.tell_refused(plan, console)
    raise typer.Exit(1 if plan.refused and on_error is None else 0)


@releases_app.command("list")
def releases_list(run: RunName) -> None:
    """List the releases of a run, oldest first."""
    found = find(run)
    table = Table("version", "kind", "parent", "epoch", "trained until", "gate", "published")
    r = schema.releases.c
    with found.engine.connect() as connection:
        query = sa.select(schema.releases).where(r.run == found.settings.run).order_by(r.version)
        for row in connection.execute(query):
            gate = "  ".join(f"{k} {v:.4g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in row.gate.items())
            table.add_row(
                str(row.version),
                row.kind,
                str(row.parent),
                str(row.epoch),
                stamp(row.trained_until) if row.trained_until else "",
                gate,
                "yes" if row.published else "no",
            )
    console.print(table)


@releases_app.command("show")
def releases_show(run: RunName, version: int) -> None:
    """Show one release: its parts, checksums and what the gate saw."""
    from streams.releases.release import ReleaseError, read_manifest  # noqa: PLC0415 - loads torch

    found = find(run)
    try:
        with found.engine.connect() as connection:
            manifest = read_manifest(connection, found.settings.run, version)
    except ReleaseError as error:
        raise UserError(str(error)) from error
    table = Table("field", "value")
    for name in manifest.__struct_fields__:
        table.add_row(name, str(getattr(manifest, name)))
    console.print(table)


@releases_app.command("rollback")
def releases_rollback(run: RunName, version: int) -> None:
    """Publish an older release again under a new version; the coordinator does it at the next epoch's end."""
    from streams.releases.candidates import CandidateError, request_rollback  # noqa: PLC0415 - loads torch

    found = find(run)
    try:
        with found.engine.begin() as connection:
            request_rollback(connection, found.settings.run, version)
    except CandidateError as error:
        raise UserError(str(error)) from error
    console.print(f"asked for: release {version} comes back under a new version at the next decision")


def recommend(
    user: Annotated[str, typer.Argument(metavar="USER", help="a user of the log, as it is written there")],
    run: Annotated[str, typer.Option("--run", help="a run's id or its --out folder")] = "runs/demo",
    k: Annotated[int, typer.Option("-k", min=1, help="how many items")] = 10,
    release: Annotated[int | None, typer.Option(help="a release's version (default: the newest)")] = None,
    by: Annotated[
        asked.By | None,
        typer.Option(help="with what the cloud says, or without [default: what ranked better in the run]"),
    ] = None,
) -> None:
    """Recommend items to a user of a run, from its tables alone."""
    from deploy.recommend import recommend as rank_catalogue  # noqa: PLC0415 - loads torch

    by, suggestions = rank_catalogue(find(run), user, k, release, by)
    table = Table("", "item", f"{by}'s score")
    for place, suggestion in enumerate(suggestions, start=1):
        table.add_row(str(place), suggestion.item, f"{suggestion.score:.3f}")
    console.print(table)


def verify(
    run: RunName,
    sample: Annotated[int, typer.Option(min=1, help="one outcome in so many is computed without tiles as well")] = 50,
) -> None:
    """Certify a run: fold its log once more with plainer code and compare every outcome, r2, state and metric.

    Reads the tables alone, in one thread, with no Kafka. Names the first difference (user, event, field) and exits
    with 1 where there is one.
    """
    import torch  # noqa: PLC0415 - only this command pays for its imports

    from streams.verification.differences import DifferenceFound  # noqa: PLC0415 - the same
    from streams.verification.verify import certify  # noqa: PLC0415 - the same

    found = find(run)
    if not found.settings.lockstep:
        raise UserError(f"run {found.settings.run} was free-running: only a run in lockstep can be certified")
    torch.set_num_threads(1)  # as every worker does
    try:
        with console.status("folding the log once more") as status:
            certificate = certify(
                found.engine,
                found.settings,
                sample=sample,
                progress=lambda done, of: status.update(f"folding the log once more: {done:,} of {of:,} users"),
            )
    except DifferenceFound as difference:
        console.print(f"[red]not as the log says:[/red] {escape(str(difference.args[0]))}", highlight=False)
        raise typer.Exit(1) from None
    c = certificate
    console.print(
        f"run {found.settings.run} is as its log says: {c.events:,} events of {c.users:,} users, {c.outcomes:,} "
        f"outcomes, {c.memories:,} r2, {c.uploads:,} uploads, both states of every user, the metrics. Without tiles "
        f"{c.untiled:,} outcomes differ by {c.untiled_difference:.1e} at the most.",
        highlight=False,
    )


def doctor(
    run: Annotated[
        str | None, typer.Option("--run", help="a run's id or --out folder (default: the environment)")
    ] = None,
) -> None:
    """Say what is reachable, whether the topics are as they should be, the lag, and the versions. Exit 1 where not."""
    findings = examine(find(run).settings if run else Settings())
    table = Table("", "what", "finding")
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.fine else "[red]no[/red]", finding.what, finding.says)
    console.print(table)
    raise typer.Exit(0 if all(finding.fine for finding in findings) else 1)
