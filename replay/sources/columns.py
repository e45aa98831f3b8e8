"""Columns of a generic exposure log: their names, their valid values, and the event that a row describes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Container, Iterable, Sequence
from decimal import Decimal
from uuid import UUID

from replay.errors import InvalidError, shown
from replay.sources.log_map import GENERIC, LogMap
from replay.sources.schema import IMPRESSIONS, NAME_BYTES
from replay.values.times import ROUNDED
from streams.records import Kind, item_key

HINT = "say which is which with log:FILE --columns, or let `mc2sf data inspect log:FILE --suggest` propose it"
NO_VALUE = ("", "null", "nan", "none", "\\n", "-1", "-1.0")  # spellings of "no value", in lower case and without blanks
# words that mean "no value" in some logs: as an impression they are none, as a name they are warned about
DOUBTFUL = (
    *("n/a", "na", "#n/a", "<na>", "nat", "nil", "(null)", "<null>", "undefined", "unknown", "missing"),
    *("anonymous", "anon", "guest", "-", "--", "?", "[]", "{}", "00000000-0000-0000-0000-000000000000"),
    *("n.a.", "not set", "(not set)", "(none)", "...", "\u200b", "\ufeff"),
    *("#name?", "#value!", "#ref!", "#div/0!", "#num!", "#null!", "#error!"),  # errors of spreadsheets
)
NO_IMPRESSION = (*NO_VALUE, "0", *DOUBTFUL)
_WHOLE = re.compile(r"^([0-9]+)\.0+$")
FLOAT_WHOLE = 2**53 - 1  # a larger float may be a rounded number
TIME_OF_DAY = "time of day"  # a column that is joined to `timestamp`, which then has the date
KINDS = {"click": Kind.CLICK, "exposure": Kind.EXPOSURE, "past_click": Kind.PAST_CLICK}


def columns(written: Iterable[str], log_map: LogMap = GENERIC) -> dict[str, str]:
    """Return the name in the log of each column that is read. Raises InvalidError as `positions` does."""
    names = list(written)
    return {column: names[position] for column, position in positions(names, log_map).items()}


def positions(names: Sequence[str], log_map: LogMap) -> dict[str, int]:
    """Return the position of each column that is read among `names`, from 0.

    Case and blanks around a name make no difference; a number in the map is a position if no column is called so.
    If `timestamp` is `DATE+TIME` and no column is called so, the second one is TIME_OF_DAY.
    Raises InvalidError if a needed column is missing, or one occurs twice.
    """
    named = log_map.named_columns
    by_column: dict[str, int] = {
        column: position
        for column in dict.fromkeys((*log_map.needed, "impression", *named))
        if (position := _position(names, named.get(column, column))) is not None
    }
    if "timestamp" not in by_column and len(both := log_map.timestamp_columns) == 2:
        found = [_position(names, name) for name in both]
        if found[0] is not None and found[1] is not None:
            by_column |= {"timestamp": found[0], TIME_OF_DAY: found[1]}
    for first, second in (("user", "item"), ("user", "timestamp"), ("item", "timestamp")):
        if first in by_column and by_column[first] == by_column.get(second):
            raise InvalidError("wrong columns", f"{first} and {second} are one column, {names[by_column[first]]}")
    missing = [name for name in dict.fromkeys((*log_map.needed, *named)) if name not in by_column]
    if missing:
        missing_names = ", ".join(named.get(name, name) for name in missing)
        raise InvalidError("wrong columns", f"there is no {missing_names} among {shown(','.join(names))}")
    return by_column


def _position(names: Sequence[str], name: str) -> int | None:
    lower = name.strip().lower()
    exact = [i for i, other in enumerate(names) if other == name and name != lower]
    matches = exact or [i for i, other in enumerate(names) if other.strip().lower() == lower]
    if len(matches) > 1:
        raise InvalidError("wrong columns", f"{name} occurs twice in {shown(','.join(names))}")
    if not matches and name.isascii() and name.isdecimal() and 0 < int(name) <= len(names):
        return int(name) - 1
    return matches[0] if matches else None


def name(what: str, value: object, null: Container[str] = NO_VALUE) -> str:
    """Return a user or an item as text, from a non-empty string, a whole number, UTF-8 bytes or a UUID.

    Raises InvalidError, also for the spellings of no value in `null`.
    """
    found = text(what, value)
    if not found:
        raise InvalidError(f"{what} is empty", "''")
    if found.strip().lower() in null:
        raise InvalidError(f"{what} is a placeholder for no value", shown(found))
    if "\0" in found:  # no database stores it
        raise InvalidError(f"{what} has a NUL in it", shown(found))
    try:
        size = len(found.encode())
    except UnicodeEncodeError as error:
        raise InvalidError("not UTF-8", shown(found)) from error
    if size > NAME_BYTES:
        raise InvalidError(f"{what} of more than {NAME_BYTES} bytes", shown(found))
    return found


def text(what: str, value: object) -> str:
    """Return a string, a whole number, UTF-8 bytes or a UUID as text. Raises InvalidError."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidError("not UTF-8", shown(value)) from error
    if isinstance(value, float | Decimal) and value == value and abs(value) != math.inf:  # noqa: PLR0124 - NaN
        if value != int(value):
            raise InvalidError(f"{what} is neither a string nor an integer", shown(value))
        if isinstance(value, float) and abs(value) > FLOAT_WHOLE:
            raise InvalidError(f"{what} is a float too large to be exact", shown(value))
        return str(int(value))
    if isinstance(value, str | int | float | Decimal | UUID) and not isinstance(value, bool):
        return str(value)
    raise InvalidError(f"{what} is neither a string nor an integer", shown(value))


def impression(value: object, null: Container[str] = NO_IMPRESSION) -> int:
    """Return the number of an impression; 0 for none, however that is written. Raises InvalidError."""
    if value is None or str(value).strip().lower() in null:
        return 0
    if isinstance(value, str) and ROUNDED.fullmatch(value):
        raise InvalidError("impression is rounded", f"{shown(value)}: by a spreadsheet? export the column as text")
    found = _WHOLE.sub(r"\1", name("impression", value).strip())  # "5.0" is 5, as the float would be
    return 0 if found in null else impression_number(found)


@functools.lru_cache(maxsize=1 << 12)
def impression_number(text: str) -> int:
    """Return a positive number below IMPRESSIONS for the name of an impression: its own value, or else a hash."""
    key = item_key(text)
    return key if 0 < key < IMPRESSIONS else item_key(f"impression {text}") % IMPRESSIONS or 1
