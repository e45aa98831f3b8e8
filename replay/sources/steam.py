"""Steam's public steam_reviews.json.gz: one Python dict literal a line (`{u'username': u'...', ...}`), a day's date.

A line is read by a lexer for flat dicts, which is several times as fast as `ast.literal_eval`; lines that it does not
cover whole go to that. Nothing is evaluated. Every review is one click: the file has neither ratings nor exposures.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from replay.errors import InvalidError, Refusals, RowError, shown
from replay.sources import columns
from replay.sources.schema import Row, batches
from replay.sources.text_lines import lines
from streams.records import Kind
from streams.settings import Exposures

USER, ITEM, DATE = "username", "product_id", "date"

_STRING = r"u?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_OTHER = r"True|False|None|-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_PAIR = re.compile(rf"({_STRING})\s*:\s*({_STRING}|{_OTHER})\s*(,\s*|\}}\s*$)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def steam(path: Path, _policy: Exposures, refusals: Refusals) -> Iterator[Any]:
    """Batches of `rows.ROWS` from Steam's reviews, gzipped or not; the time is 00:00 UTC of the day."""
    return batches(_rows(path, refusals))


def _rows(path: Path, refusals: Refusals) -> Iterator[Row]:
    for number, line in lines(path, refusals):
        try:
            yield _row(fields(line))
        except InvalidError as error:
            refusals.refuse(RowError(path, number, error.reason, error.detail))


def _row(review: dict[str, Any]) -> Row:
    """The click that a review is. Raises InvalidError."""
    missing = [name for name in (USER, ITEM, DATE) if name not in review]
    if missing:
        raise InvalidError("wrong columns", f"no {', '.join(missing)}")
    date = review[DATE]
    if not isinstance(date, str) or not _DATE.fullmatch(date):
        raise InvalidError("date is not YYYY-MM-DD", shown(date))
    return columns.name("user", review[USER]), columns.name("item", review[ITEM]), columns.time(date), Kind.CLICK, 0


def fields(line: str) -> dict[str, Any]:
    """The fields user, item and date of a dict literal, as far as they are there. Raises InvalidError."""
    found: dict[str, str] = {}
    at = 1
    while line.startswith("{") and (pair := _PAIR.match(line, at)):
        name, value, end = pair.groups()
        found[name.lstrip("u")[1:-1]] = value
        at = pair.end()
        if end[0] == "}":
            return {name: _literal(found[name]) for name in (USER, ITEM, DATE) if name in found}
    whole = _literal(line.strip())
    if not isinstance(whole, dict):
        raise InvalidError("not a dict literal", shown(line))
    return whole


def _literal(text: str) -> Any:
    """The value of a Python literal. Raises InvalidError."""
    if "\\" not in text and text[-1] in "'\"":
        return text.lstrip("u")[1:-1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes and numbers that Python will refuse one day
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise InvalidError("not a dict literal", shown(text)) from error
