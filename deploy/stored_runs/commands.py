"""`mc2sf runs`: list, show, delete, prune and trim stored runs; and the export commands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import sqlalchemy as sa
import typer

from deploy.cli.groups import group
from deploy.cli.options import JsonOption, RunArgument, span_of
from deploy.console import Table, print_json, terminal
from deploy.runs import find
from deploy.stored_runs.stored_runs import UNREADABLE, StoredRun, chosen, delete, stored_runs
from deploy.user_error import UserError
from replay.times import utc
from streams.database import schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.runs import FoundRun
    from deploy.stored_runs.backup import Progress

app = group("Stored runs: list, show, delete, prune, trim, backup, restore.")
console = terminal()
FolderOption = Annotated[Path, typer.Option("--in", metavar="DIR", help="Folder that contains the runs' folders.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Delete without asking for confirmation.")]


@app.command("list")
def list_runs(*, folder: FolderOption = Path("runs"), as_json: JsonOption = False) -> None:
    """List the runs under DIR and in the database of MC2SF_DATABASE, oldest first."""
    found = stored_runs(folder)
    if as_json:
        print_json(found)
        return
    table = Table("run", "begun (UTC)", "status", "source", "folder", "MB")
    for stored in found:
        size = f"{stored.bytes / 1e6:,.1f}" if stored.folder else ""
        begun, what = utc(stored.created_wall) if stored.created_wall else "", stored.problem or stored.source
        table.add_row(stored.run, begun, stored.status, what, stored.folder or "", size)
    console.print(table)


@app.command("show")
def show_run(run: RunArgument, *, as_json: JsonOption = False) -> None:
    """Show the settings, the versions and the result of a run."""
    found = find(run)
    with found.engine.connect() as connection:
        query = sa.select(schema.runs).where(schema.runs.c.run == found.settings.run)
        row = dict(connection.execute(query).mappings().one())
    found.engine.dispose()
    if as_json:
        print_json(row)
        return
    table = Table("what", "value")
    for name in ("run", "source", "status"):
        table.add_row(name, row[name])
    table.add_row("begun (UTC)", utc(row["created_wall"]))
    for part in ("settings", "versions"):
        for name, value in row[part].items():
            table.add_row(f"{part}.{name}", str(value))
    console.print(table)


@app.command("delete")
def delete_run(run: RunArgument, *, folder: FolderOption = Path("runs"), yes: YesOption = False) -> None:
    """Delete a run: its rows in the database, and its folder. Its topics on a broker are not touched."""
    _delete([chosen(stored_runs(folder), run)], yes)


@app.command("prune")
def prune(
    *,
    older: Annotated[str, typer.Option(metavar="SPAN", help="Delete runs that began longer ago, such as 30d.")],
    folder: FolderOption = Path("runs"),
    yes: YesOption = False,
) -> None:
    """Delete the runs that began longer ago than SPAN; those with status `running` or `unreadable` are kept."""
    before, kept = time.time() * 1000 - span_of("--older", older), {"running", UNREADABLE}
    _delete([s for s in stored_runs(folder) if s.created_wall < before and s.status not in kept], yes)


@app.command("trim")
def trim_run(
    run: RunArgument,
    *,
    keep: Annotated[
        str, typer.Option(metavar="SPAN", help="Keep all rows of the last SPAN of event time, such as 90d.")
    ],
    releases: Annotated[int, typer.Option(min=1, help="Keep at least the weights of this many last releases.")] = 10,
) -> None:
    """Delete old rows of a run: outcomes, uploads, metrics, drifts, dead letters, idempotency keys, releases' weights.

    The run may be running. Its log, r2 and states are kept, and the weights by which a kept click was ranked or a
    ranking on the topics is explained. Afterwards `mc2sf verify` refuses the run, and `mc2sf evaluate` compares all
    variants except river and served, which learn from all outcomes. `mc2sf releases list` shows the weights.
    """
    from streams.database.retention import trim
    from streams.releases.retention import delete_weights

    keep_ms = span_of("--keep", keep)
    found = find(run)
    with console.status("deleting"), found.engine.begin() as connection:
        now = int(time.time() * 1000)
        deleted = trim(connection, found.settings, keep_ms, now)
        deleted |= delete_weights(connection, found.settings, releases, now)
    found.engine.dispose()
    console.print(", ".join(f"{rows:,} {table}" for table, rows in deleted.items() if rows) or "no row", "deleted")


@app.command("backup")
def backup_run(
    run: RunArgument, folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the copy.")]
) -> None:
    """Copy all rows of a run into an SQLite database in DIR, which every command accepts as RUN.

    The run may be running. Topics on the broker are not copied, so the copy can't be continued.
    """
    from deploy.stored_runs.backup import backup

    found = find(run)
    rows = _copied(found, lambda progress: backup(found, folder, progress))
    console.print(f"{rows:,} rows copied to {folder}")


@app.command("restore")
def restore_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a backup, or another run.")],
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="SQLAlchemy URL.  [default: MC2SF_DATABASE]")
    ] = None,
) -> None:
    """Copy all rows of a run into another database, which must not contain a run with this id."""
    from deploy.stored_runs.backup import restore
    from streams.settings import Settings

    url = database or Settings().database.get_secret_value()
    found = find(run)
    rows = _copied(found, lambda progress: restore(found, url, progress))
    console.print(f"run {found.settings.run} restored: {rows:,} rows")


def export_run(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for a Parquet file per table.")],
) -> None:
    """Export a run: a Parquet file per table, with named columns and decoded states."""
    from deploy.analysis import Run
    from deploy.analysis.export import export

    with Run(run) as opened, console.status("exporting") as status:
        rows = export(opened, folder, lambda table, rows: status.update(f"{table}: {rows:,} rows"))
    console.print(f"{rows:,} rows written to {folder}")


def export_device(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the model and the table of items.")],
    release: Annotated[int | None, typer.Option(help="Version of the release.  [default: the active one]")] = None,
    eight_bits: Annotated[bool, typer.Option("--eight-bits", help="Quantise weights and vectors to 8 bits.")] = False,
    executorch: Annotated[bool, typer.Option("--executorch", help="Write an ExecuTorch program instead.")] = False,
) -> None:
    """Export a release for a device: the fast part as ONNX, the items as Parquet."""
    from deploy.analysis import device_export

    if eight_bits and executorch:
        raise UserError("--eight-bits quantises ONNX only: leave it or --executorch out")
    found = find(run)
    with console.status("exporting"):
        version = device_export.export_device(found, folder, release, eight_bits=eight_bits, executorch=executorch)
    found.engine.dispose()
    size = (folder / (device_export.PROGRAM if executorch else device_export.MODEL)).stat().st_size
    console.print(f"release {version} written to {folder}: {size:,} bytes without the items")


def _copied(found: FoundRun, copy: Callable[[Progress], int]) -> int:
    """Return the number of rows that `copy` has copied, and show its progress."""
    with console.status("copying") as status:
        try:
            return copy(lambda table, rows: status.update(f"copying {table}: {rows:,} rows"))
        finally:
            found.engine.dispose()


def _delete(runs: list[StoredRun], yes: bool) -> None:
    for stored in runs:
        begun = utc(stored.created_wall) if stored.created_wall else "unknown time"
        console.print(f"{stored.run} of {begun}: {stored.folder or stored.database}")
    if not runs:
        console.print("no run to delete")
    elif yes or typer.confirm(f"Delete {len(runs)} run(s)?"):
        for stored in runs:
            console.print(f"{stored.run} deleted: {delete(stored):,} rows")
    else:
        raise typer.Exit(1)
