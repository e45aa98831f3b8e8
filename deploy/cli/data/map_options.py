"""The options that say how a log is written: a map in a file, and single fields of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from deploy.user_error import UserError
from replay.sources.log_map import GENERIC, LogMap, read_map

_option = partial(typer.Option, rich_help_panel="How the log is written (log:FILE)")
_SPELT: Final = {r"\t": "\t", "tab": "\t", "space": " "}  # separators that are hard to write in a shell


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """Options that describe the format of a log."""

    map_file: Annotated[
        Path | None,
        _option(
            "--map", metavar="FILE.toml", help="TOML file that describes the log; options of this panel override it."
        ),
    ] = None
    columns: Annotated[
        str | None,
        _option(
            metavar="COLUMN=NAME,...",
            help="Name or number in the log of each COLUMN: user, item, timestamp, impression, and one of event, click "
            "and rating.",
        ),
    ] = None
    events: Annotated[
        str | None,
        _option(
            metavar="VALUE=KIND,...",
            help="KIND (click, exposure, ignore) of each VALUE of the column event; a KIND alone applies to every row.",
        ),
    ] = None
    click_from: Annotated[
        float | None,
        _option(
            help="Smallest value of the column click or rating that makes a row a click.  [default: 1 for click, 4 for "
            "rating]"
        ),
    ] = None
    header: Annotated[
        bool | None,
        _option(
            "--header/--no-header",
            help="The first line of a CSV file has the column names, or not.  [default: detected]",
        ),
    ] = None
    separator: Annotated[str | None, _option(help="Field separator of a CSV file.  [default: detected]")] = None
    encoding: Annotated[str | None, _option(help="Text encoding of the log.  [default: utf-8]")] = None
    null: Annotated[
        str | None,
        _option(metavar="TEXT,...", help="Additional texts that mean a missing value."),
    ] = None
    time_unit: Annotated[
        str | None,
        _option(
            help="Unit of numeric timestamps: s, ms, us, ns, m, h or d since 1970, or excel.  [default: by their size]"
        ),
    ] = None
    time_format: Annotated[
        str | None,
        _option(metavar="STRPTIME", help="Format of textual timestamps, such as %d.%m.%Y.  [default: ISO 8601]"),
    ] = None
    tz: Annotated[
        str | None,
        _option(metavar="ZONE", help="Time zone of timestamps without one.  [default: UTC]"),
    ] = None
    parts: Annotated[
        str | None,
        _option(
            metavar="PATTERN", help="Shell pattern of the files to read if the log is a folder.  [default: all files]"
        ),
    ] = None

    def log_map(self) -> LogMap | None:
        """Return the map that the options describe; None if none is given. Raises UserError, SourceError."""
        base = read_map(self.map_file) if self.map_file else GENERIC
        given: dict[str, object] = {
            name: value
            for name in ("click_from", "header", "encoding", "time_unit", "time_format", "tz", "parts")
            if (value := getattr(self, name)) is not None
        }
        if self.columns is not None:
            given["columns"] = base.columns | dict(_pairs("--columns", self.columns))
        if self.events is not None and "=" not in self.events:
            given |= {"event": self.events, "events": {}}
        elif self.events is not None:
            given |= {"events": base.events | dict(_pairs("--events", self.events)), "event": None}
        for option, other in (("time_unit", "time_format"), ("time_format", "time_unit")):
            if option in given:
                given.setdefault(other, None)
        if self.separator is not None:
            given["separator"] = _SPELT.get(self.separator, self.separator)
        if self.null is not None:
            given["null"] = [*base.null, *self.null.split(",")]
        if not given:
            return base if self.map_file else None
        try:
            return msgspec.convert(msgspec.to_builtins(base) | given, LogMap)
        except (msgspec.ValidationError, ValueError) as error:
            raise UserError(f"the map of the log: {error}") from error


def _pairs(option: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of `name=value,...`; in `--events` a name may hold `=`. Raises UserError."""
    seen = set[str]()
    for part in text.split(","):
        name, equal, value = part.rpartition("=") if option == "--events" else part.partition("=")
        if not (name and equal and value):
            raise UserError(f"{option} {part!r}: write name=value,...; a name with a comma goes into a --map file")
        if name in seen:
            raise UserError(f"{option}: {name} is given twice")
        seen.add(name)
        yield name, value
