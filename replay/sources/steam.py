"""Reader of steam_reviews.json.gz: one Python dict literal per line (`{u'username': u'...', ...}`), dated by day.

A lexer for flat dicts reads the lines, several times as fast as `ast.literal_eval`, which reads the lines that the
lexer does not cover. Nothing is evaluated. Every review is one click: the file has no ratings and no exposures. The
user is the `user_id`, or the name where there is none.
"""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from replay.errors import InvalidError, RowError, RowErrors, shown
from replay.sources import columns
from replay.sources.schema import Row, batches
from replay.sources.text.lines import lines
from replay.times import MS
from replay.values.times import Times
from streams.records import Kind
from streams.settings import Exposures

USER, ITEM, DATE = "username", "product_id", "date"
USER_ID = "user_id"  # in some reviews; names are not unique

_STRING = r"u?(?:'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\")"
_OTHER = r"True|False|None|-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
# name, value, closing brace, or anything else up to the end of the line
_PAIR = re.compile(rf"({_STRING})\s*:\s*({_STRING}|{_OTHER})\s*(?:,\s*|(\}})\s*$)|(.+)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def steam(path: Path, _policy: Exposures, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.ROWS` from the reviews, gzipped or not; the time is 00:00 UTC of the day."""
    return batches(_rows(path, errors), errors)


def _rows(path: Path, errors: RowErrors) -> Iterator[Row]:
    for number, line in lines(path, errors):
        try:
            yield _row(fields(line))
        except InvalidError as error:
            errors.add(RowError(path, number, error.reason, error.detail))


def _row(review: dict[str, object]) -> Row:
    """Return a review as a click. Raises InvalidError."""
    user = USER_ID if review.get(USER_ID) else USER
    missing = [name for name in (user, ITEM, DATE) if name not in review]
    if missing:
        raise InvalidError("wrong columns", f"no {', '.join(missing)}")
    date = review[DATE]
    if not isinstance(date, str) or not _DATE.fullmatch(date):
        raise InvalidError("date is not YYYY-MM-DD", shown(date))
    return columns.name("user", review[user]), columns.name("item", review[ITEM]), _ms(date), Kind.CLICK, 0


@functools.lru_cache(maxsize=1 << 13)
def _ms(date: str) -> int:
    """Return 00:00 UTC of a day, ms. Raises InvalidError."""
    return Times(options=False).ns(date) // MS


def fields(line: str) -> dict[str, object]:
    """Return the fields user, its id, item and date of a dict literal, if they are present. Raises InvalidError."""
    pairs = _PAIR.findall(line, 1) if line.startswith("{") else []
    if pairs and pairs[-1][2]:
        literals = {name.lstrip("u")[1:-1]: value for name, value, _, _ in pairs}
        return {name: _literal(literals[name]) for name in (USER, USER_ID, ITEM, DATE) if name in literals}
    fields = _literal(line.strip())
    if not isinstance(fields, dict):
        raise InvalidError("not a dict literal", shown(line))
    return fields


def _literal(text: str) -> object:
    """Return the value of a Python literal. Raises InvalidError."""
    if "\\" not in text and text[-1] in "'\"":
        return text.lstrip("u")[1:-1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes and numbers that a later Python will reject
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise InvalidError("not a dict literal", shown(text)) from error
