"""The description of how a log is written: its column names, words for events, times and file format.

A `LogMap` is data only. It is read from a TOML file (`--map FILE.toml`), from options of the command line, or from the
presets of public logs.
"""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from replay.errors import SourceError
from replay.times import TimeUnit

Column = Literal["user", "item", "timestamp", "event", "impression", "click", "rating"]


class Slate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A column whose cells list the items of an impression: `N1-0 N2-1`, or `a|b|c` with the click in another column.

    Every row is an impression. Its items are exposures, but for those that end in `click_suffix` and the row's `item`,
    which are clicks.
    """

    column: str
    """Name of the column in the log, or its 1-based number as text."""
    separator: str = " "
    """Text between two items of a cell."""
    click_suffix: str = ""
    """End of a clicked item, which is cut off; empty: the clicked item is in the column `item`."""
    exposure_suffix: str = ""
    """End of an item that was not clicked, which is cut off."""

    def __post_init__(self) -> None:
        """Raise ValueError if the separator is empty."""
        if not self.separator:
            raise ValueError("slate: separator: '' can't separate items")


class LogMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The format of a log. The default describes the generic log: `user,item,timestamp,event[,impression]`."""

    columns: dict[Column, str] = {}
    """Name in the log of each of our columns, or its 1-based number as text if there is no header; others keep theirs.

    `user.id` is the field `id` of the object `user`, and `date+time` is a timestamp in two columns, unless a column is
    called so.

    `click` and `rating` are numbers that make a row a click from `click_from` on, else an exposure: `click` always,
    `rating` under the exposure policy `rated`, while under every other policy all rated items are clicks.
    """
    events: dict[str, Literal["click", "exposure", "ignore"]] = {}
    """Kind of each value of the column `event`; `ignore` leaves the row out, `*` is for all other values."""
    event: Literal["click", "exposure"] | None = None
    """Kind of every row of a log without a column `event`, `click` or `rating`."""
    click_from: float | None = None
    """Smallest value of `click` or `rating` that is a click; None: 1 for `click`, 4 for `rating`."""
    header: bool | None = None
    """True if the first line of a CSV file has the names of the columns; None: if it has those that are needed."""
    separator: str | None = None
    """Text between two fields of a CSV file; None: the one of `, TAB ; | ::` that splits line 1."""
    encoding: str = "utf-8"
    """Encoding of a text file, by its Python name."""
    null: tuple[str, ...] = ()
    """Spellings of "no value" beside the usual ones (empty, NULL, nan, None, `\\N`, -1)."""
    time_unit: TimeUnit | None = None
    """Unit of times that are numbers, since 1970 (`excel`: a spreadsheet's days); None: s, ms, us or ns by the size."""
    time_format: str | None = None
    """Format of times that are text, as strptime reads it; None: ISO 8601."""
    tz: str | None = None
    """IANA name of the time zone of times without one; None: UTC."""
    quote: Literal['"', ""] = '"'
    """Character around a field of a CSV file that holds separators or line ends; empty: there is none."""
    comment: str | None = None
    """First character of lines of a CSV file that are passed over."""
    parts: str | None = None
    """Pattern of the shell for the files in a folder that are parts of the log (`part-*.csv`); None: all of them."""
    slate: Slate | None = None
    """Column of the items of an impression, if a row is one impression."""
    history: str | None = None
    """Column of the items clicked before the log, separated as in `slate`: past clicks, at the user's first row."""
    nested: str | None = None
    """Column of JSON lines with a list of objects, each an event: its fields come before those around the list."""

    def __post_init__(self) -> None:
        """Raise ValueError that names the field that has no possible value."""
        try:
            "a".encode(self.encoding, "surrogateescape").decode(self.encoding, "surrogateescape")
        except (LookupError, ValueError) as error:
            raise ValueError(f"encoding: {self.encoding!r} is unknown") from error
        try:
            ZoneInfo(self.tz or "UTC")
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"tz: {self.tz!r} is no time zone such as Europe/Copenhagen") from error
        if self.separator is not None and (not self.separator or set(self.separator) & set('"\r\n')):
            raise ValueError(f"separator: {self.separator!r} can't separate fields")
        if self.comment is not None and len(self.comment) != 1:
            raise ValueError(f"comment: {self.comment!r} is not one character")
        if self.click_from is not None and not math.isfinite(self.click_from):
            raise ValueError(f"click_from: {self.click_from} is no number that a value can reach")
        kinds = {"event", "click", "rating"} & set(self.columns)
        if len(kinds) > 1:
            raise ValueError(f"columns: only one of {', '.join(sorted(kinds))} can make a row a click")
        if self.event and kinds:
            raise ValueError(f"event: the column {kinds.pop()} decides already")
        self._check_used()

    def _check_used(self) -> None:
        """Raise ValueError for a field that nothing would be done with because of another."""
        if self.click_from is not None and self.decides not in ("click", "rating"):
            raise ValueError("click_from: columns names no click and no rating that it could be compared with")
        if self.events and self.decides != "event":
            other = f"the column {self.decides}" if self.decides else "event" if self.event else "the slate"
            raise ValueError(f"events: {other} decides which rows are clicks, since columns names no column event")
        if self.time_unit and self.time_format:
            raise ValueError("time_unit: time_format is given, too; a time is either a number or a text")

    @property
    def decides(self) -> Literal["event", "click", "rating"] | None:
        """The column that makes a row a click or an exposure; None if all rows are of one kind, or are slates."""
        if "click" in self.columns:
            return "click"
        if "rating" in self.columns:
            return "rating"
        return None if self.event or (self.slate and "event" not in self.columns) else "event"

    @property
    def largest_expected(self) -> float:
        """The largest value of `click` or `rating` for which the default of `click_from` is meant."""
        return math.inf if self.click_from is not None else 5 if self.decides == "rating" else 1

    @property
    def smallest_click(self) -> float:
        """The smallest value of `click` or `rating` that is a click."""
        return self.click_from if self.click_from is not None else 4 if self.decides == "rating" else 1

    @property
    def named_columns(self) -> dict[str, str]:
        """Name in the log, or number, of each column that the map names."""
        names: dict[str, str] = dict(self.columns.items())
        if self.slate:
            names["slate"] = self.slate.column
        if self.history:
            names["history"] = self.history
        return names

    @property
    def timestamp_columns(self) -> tuple[str, ...]:
        """The name of the column of times; or the names of the columns of the date and of the time of day."""
        name = self.columns.get("timestamp", "timestamp")
        date, plus, time = name.partition("+")
        return (date, time) if date and plus and time else (name,)

    @property
    def by_number(self) -> bool:
        """True if the map names columns, and all by their numbers."""
        names = [*(n for column, n in self.named_columns.items() if column != "timestamp")]
        names += self.timestamp_columns if "timestamp" in self.columns else ()
        return bool(names) and all(name.isdecimal() for name in names)

    @property
    def paths(self) -> tuple[str, ...]:
        """The names with a dot, which may be those of fields inside objects."""
        return tuple(name for name in (*self.named_columns.values(), *self.timestamp_columns) if "." in name)

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns without which no row is an event."""
        of_slate = ("slate",) if self.slate else ("item",)
        return ("user", *of_slate, "timestamp", *((self.decides,) if self.decides else ()))


GENERIC = LogMap()


def read_map(path: Path) -> LogMap:
    """Return the map in a TOML file. Raises SourceError that names the file and the field."""
    try:
        return msgspec.toml.decode(path.read_bytes().removeprefix(BOM_UTF8), type=LogMap)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
        raise SourceError(f"{path}: {error}") from error
