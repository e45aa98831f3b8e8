"""`mc2sf dead-letters`: what was refused and why, and sending it again once the reason is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.cli.inspect import RunName, stamp
from deploy.runs import Found, UserError, find
from streams.recorder.redelivery import RefusedRecord, ResendError, position, refused_records, resend

letters_app = typer.Typer(no_args_is_help=True, help="Records that were refused, why, and sending them again.")
console = Console()
PlaceName = Annotated[str, typer.Argument(metavar="PLACE", help="where it stood, as `list` writes it: topic/0@35")]


def _all(found: Found) -> list[RefusedRecord]:
    with found.engine.connect() as connection:
        return refused_records(connection, found.settings.run)


def _at(found: Found, positions: list[str]) -> list[RefusedRecord]:
    """Return the refused records at `positions`, in their original order."""
    try:
        wanted = {position(text) for text in positions}
    except ResendError as error:
        raise UserError(str(error)) from error
    chosen = [record for record in _all(found) if record.position in wanted]
    if missing := wanted - {record.position for record in chosen}:
        raise UserError(f"no dead letter at {', '.join(sorted(map(str, missing)))}")
    return chosen


@letters_app.command("list")
def list_letters(run: RunName) -> None:
    """List the refused records of a run, in the order in which they stood."""
    table = Table("place", "refused by", "key", "bytes", "sent again", "reason")
    for record in _all(find(run)):
        again = stamp(record.resent_wall) if record.resent_wall else ""
        key = escape(record.key[:40].decode(errors="backslashreplace"))
        size = f"{len(record.value):,}"
        table.add_row(str(record.position), record.roles, key, size, again, escape(record.reason))
    console.print(table)


@letters_app.command("show")
def show_letter(
    run: RunName,
    place: PlaceName,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="write the record's bytes there")] = None,
) -> None:
    """Show one refused record: reason, key and the first bytes; with --save all of them."""
    (record,) = _at(find(run), [place])
    table = Table(title=str(record.position), show_header=False)
    table.add_row("refused by", record.roles)
    table.add_row("reason", escape(record.reason))
    table.add_row("sent again", stamp(record.resent_wall) if record.resent_wall else "no")
    table.add_row("key", escape(repr(record.key)))
    table.add_row("bytes", f"{len(record.value):,}")
    table.add_row("begins", record.value[:64].hex(" "))
    console.print(table)
    if save is not None:
        save.write_bytes(record.value)
        console.print(f"{len(record.value):,} bytes written to {save}")


@letters_app.command("replay")
def replay_letters(
    run: RunName,
    places: Annotated[list[str] | None, typer.Argument(metavar="[PLACE...]", help="which [default: all]")] = None,
    value: Annotated[Path | None, typer.Option(metavar="FILE", help="send these bytes instead, for one PLACE")] = None,
) -> None:
    """Send refused records again, to where they stood: after an upgrade, a repair, or when what was missing came.

    A record that was applied before is dropped as a repeat. One that is refused again becomes a new dead letter.
    """
    found = find(run)
    chosen = _at(found, places) if places else [record for record in _all(found) if record.resent_wall is None]
    if value is not None:
        if len(chosen) != 1 or not places:
            raise UserError("--value mends one record: name its PLACE")
        chosen = [chosen[0]._replace(value=value.read_bytes(), reason="")]
    try:
        resend(found.settings, found.engine, chosen)
    except ResendError as error:
        raise UserError(str(error)) from error
    console.print(f"{len(chosen)} records sent again")
