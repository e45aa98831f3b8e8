"""`mc2sf dead-letters`: refused records and the reasons, and sending them again after a repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column

from deploy.cli.groups import group
from deploy.cli.options import JsonOption, RunArgument
from deploy.console import Table, print_json, terminal
from deploy.runs import FoundRun, find
from deploy.user_error import UserError
from replay.times import utc
from streams.recorder.redelivery import RefusedRecord, position, refused_records, resend

app = group("Refused records: list them, show one, send them again.")
console = terminal()
Position = Annotated[
    str, typer.Argument(metavar="POSITION", help="Topic, partition and offset, as `list` prints them: topic/0@35.")
]


def _all(found: FoundRun) -> list[RefusedRecord]:
    with found.engine.connect() as connection:
        return refused_records(connection, found.settings.run)


def _at(found: FoundRun, positions: list[str]) -> list[RefusedRecord]:
    """Return the refused records at `positions`, in their original order. Raises UserError, ResendError."""
    wanted = {position(text) for text in positions}
    chosen = [record for record in _all(found) if record.position in wanted]
    if missing := wanted - {record.position for record in chosen}:
        raise UserError(f"no dead letter at {', '.join(sorted(map(str, missing)))}")
    return chosen


@app.command("list")
def list_letters(run: RunArgument, *, as_json: JsonOption = False) -> None:
    """List the refused records of a run, in their order in the topics. In JSON keys and values are in base64."""
    if as_json:
        print_json([_plain(record) for record in _all(find(run))])
        return
    table = Table(Column("position", no_wrap=True), "refused by", "key", "bytes", "sent again", "reason")
    for record in _all(find(run)):
        again = utc(record.resent_wall) if record.resent_wall else ""
        key = record.key[:40].decode(errors="backslashreplace")
        size = f"{len(record.value):,}"
        table.add_row(str(record.position), record.roles, key, size, again, record.reason)
    console.print(table)


@app.command("show")
def show_letter(
    run: RunArgument,
    text: Position,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the bytes of the record to FILE.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show one refused record: reason, key and the first bytes; --save writes all of them."""
    (record,) = _at(find(run), [text])
    if as_json:
        print_json(_plain(record))
    else:
        console.print(_table(record))
    if save is not None:
        save.write_bytes(record.value)
        terminal(stderr=as_json).print(f"{len(record.value):,} bytes written to {save}")


def _plain(record: RefusedRecord) -> dict[str, object]:
    return record._asdict() | {"position": str(record.position)}


def _table(record: RefusedRecord) -> Table:
    table = Table(title=str(record.position), show_header=False)
    table.add_row("refused by", record.roles)
    table.add_row("reason", record.reason)
    table.add_row("sent again", utc(record.resent_wall) if record.resent_wall else "no")
    table.add_row("key", repr(record.key))
    table.add_row("bytes", f"{len(record.value):,}")
    table.add_row("begins", record.value[:64].hex(" "))
    return table


@app.command("replay")
def replay_letters(
    run: RunArgument,
    positions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[POSITION...]", help="Records to send again.  [default: all that were not yet]"),
    ] = None,
    value: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Send the bytes of FILE instead of the value at one POSITION.")
    ] = None,
) -> None:
    """Send refused records again, to the same topic and partition: after an upgrade, or a repair.

    A record that was applied before is dropped as a repeat. One that is refused again becomes a new dead letter.
    """
    found = find(run)
    chosen = _at(found, positions) if positions else [record for record in _all(found) if record.resent_wall is None]
    if value is not None:
        if len(chosen) != 1 or not positions:
            raise UserError("--value replaces the value of one record: name its POSITION")
        chosen = [chosen[0]._replace(value=value.read_bytes(), reason="")]
    resend(found.settings, found.engine, chosen)
    console.print(f"{len(chosen)} records sent again")
