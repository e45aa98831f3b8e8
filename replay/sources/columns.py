"""Columns of a generic exposure log: their names, their valid values, and the event that a row describes."""

from __future__ import annotations

import functools
import math
from collections.abc import Container, Iterable, Mapping
from decimal import Decimal
from uuid import UUID

from replay.errors import InvalidError, shown
from replay.sources.schema import IMPRESSIONS, NAME_BYTES, Row
from replay.times import MS
from replay.values.times import Times
from streams.records import Kind, item_key

NEEDED = ("user", "item", "timestamp", "event")
COLUMNS = (*NEEDED, "impression")
NO_VALUE = ("", "null", "nan", "none", "\\n", "-1")  # spellings of "no value", in lower case and without blanks
NO_IMPRESSION = (*NO_VALUE, "0")
FLOAT_WHOLE = 2**53  # up to here a float holds every whole number
KINDS = {"click": Kind.CLICK, "exposure": Kind.EXPOSURE}


def columns(written: Iterable[str]) -> dict[str, str]:
    """Map each known column to its name in the log; case and blanks around a name make no difference.

    Raises InvalidError if a needed column is missing, or one occurs twice.
    """
    found: dict[str, str] = {}
    for name in (names := list(written)):
        column = name.strip().lower()
        if column in found:
            raise InvalidError("wrong columns", f"{column} occurs twice in {shown(','.join(names))}")
        if column in COLUMNS:
            found[column] = name
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise InvalidError("wrong columns", f"there is no {', '.join(missing)} among {shown(','.join(names))}")
    return found


def time(value: object) -> int:
    """Return a time in ms. Raises InvalidError."""
    return Times().ns(value) // MS


def row(values: Mapping[str, object]) -> Row:
    """Return the event that `values` describe. Raises InvalidError."""
    event = values["event"]
    kind = KINDS.get(event) if isinstance(event, str) else None
    if kind is None:
        raise InvalidError("unknown event kind", shown(event))
    user, item = name("user", values["user"]), name("item", values["item"])
    return user, item, time(values["timestamp"]), kind, impression(values.get("impression"))


def name(what: str, value: object, null: Container[str] = NO_VALUE) -> str:
    """Return a user or an item as text, from a non-empty string, a whole number, UTF-8 bytes or a UUID.

    Raises InvalidError, also for the spellings of no value in `null`.
    """
    text = _text(what, value)
    if not text:
        raise InvalidError(f"{what} is empty", "''")
    if text.strip().lower() in null:
        raise InvalidError(f"{what} is a placeholder for no value", shown(text))
    if "\0" in text:  # no database keeps it
        raise InvalidError(f"{what} has a NUL in it", shown(text))
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidError("not UTF-8", shown(text)) from error
    if size > NAME_BYTES:
        raise InvalidError(f"{what} of more than {NAME_BYTES} bytes", shown(text))
    return text


def _text(what: str, value: object) -> str:
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
    text = name("impression", value)
    return 0 if text in null else impression_number(text)


@functools.lru_cache(maxsize=1 << 12)
def impression_number(text: str) -> int:
    """Return a positive number below IMPRESSIONS for the name of an impression: its own value, or else a hash."""
    key = item_key(text)
    return key if 0 < key < IMPRESSIONS else item_key(f"impression {text}") % IMPRESSIONS or 1
