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
from streams.recorder.redelivery import Letter, Place, ResendError, letters, resend

letters_app = typer.Typer(no_args_is_help=True, help="Records that were refused, why, and sending them again.")
console = Console()
PlaceName = Annotated[str, typer.Argument(metavar="PLACE", help="where it stood, as `list` writes it: topic/0@35")]


def _all(found: Found) -> list[Letter]:
    with found.engine.connect() as connection:
        return letters(connection, found.settings.run)


def _at(found: Found, places: list[str]) -> list[Letter]:
    """The letters at `places`, in the order in which the records stood."""
    try:
        wanted = {Place.of(place) for place in places}
    except ResendError as error:
        raise UserError(str(error)) from error
    chosen = [letter for letter in _all(found) if letter.place in wanted]
    if missing := wanted - {letter.place for letter in chosen}:
        raise UserError(f"no dead letter at {', '.join(sorted(map(str, missing)))}")
    return chosen


@letters_app.command("list")
def list_letters(run: RunName) -> None:
    """List the refused records of a run, in the order in which they stood."""
    table = Table("place", "refused by", "key", "bytes", "sent again", "reason")
    for letter in _all(find(run)):
        again = stamp(letter.resent_wall) if letter.resent_wall else ""
        key = escape(letter.key[:40].decode(errors="backslashreplace"))
        size = f"{len(letter.value):,}"
        table.add_row(str(letter.place), letter.roles, key, size, again, escape(letter.reason))
    console.print(table)


@letters_app.command("show")
def show_letter(
    run: RunName,
    place: PlaceName,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="write the record's bytes there")] = None,
) -> None:
    """Show one refused record: reason, key and the first bytes; with --save all of them."""
    (letter,) = _at(find(run), [place])
    table = Table(title=str(letter.place), show_header=False)
    table.add_row("refused by", letter.roles)
    table.add_row("reason", escape(letter.reason))
    table.add_row("sent again", stamp(letter.resent_wall) if letter.resent_wall else "no")
    table.add_row("key", escape(repr(letter.key)))
    table.add_row("bytes", f"{len(letter.value):,}")
    table.add_row("begins", letter.value[:64].hex(" "))
    console.print(table)
    if save is not None:
        save.write_bytes(letter.value)
        console.print(f"{len(letter.value):,} bytes written to {save}")


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
    chosen = _at(found, places) if places else [letter for letter in _all(found) if letter.resent_wall is None]
    if value is not None:
        if len(chosen) != 1 or not places:
            raise UserError("--value mends one record: name its PLACE")
        chosen = [chosen[0]._replace(value=value.read_bytes(), reason="")]
    try:
        resend(found.settings, found.engine, chosen)
    except ResendError as error:
        raise UserError(str(error)) from error
    console.print(f"{len(chosen)} records sent again")
