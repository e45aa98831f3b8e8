"""Reader of a log in JSON lines: an object is an event, or has a list of them; other fields are ignored.

Values become columns of text, so that they are read as those of CSV. A row with a value of a type that is neither text
nor a number is a batch of its own, and is refused as that of a Parquet file would be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from replay.errors import InvalidError, RowErrors, SourceError, shown
from replay.sources.columns import FLOAT_WHOLE, columns
from replay.sources.schema import BATCH
from replay.sources.text.lines import lines
from replay.values.events import EventReader, Problem
from replay.values.table import Table

_FORMS = 16  # sets of fields whose meaning is kept: most lines of a log have the same
_NUMBERS = ("timestamp", "click", "rating")  # columns in which a float is not a name
_json = msgspec.json.Decoder()

Values = dict[str, object]


def json_log(path: Path, reader: EventReader, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.READ`; bad lines, and bad events in the list of a line, go to `errors`."""
    if reader.log_map.slate or reader.log_map.history:
        raise SourceError(f"{path}: slate and history are columns of CSV and Parquet; JSON lines have nested lists")
    held: list[Values] = []
    places: list[int] = []
    problems: list[Problem] = []

    def events() -> pa.RecordBatch:
        names = dict.fromkeys([*reader.log_map.needed, *(name for values in held for name in values)])
        arrays = [_column([values.get(name) for values in held]) for name in names]
        rows = pa.RecordBatch.from_arrays(arrays, names=list(names))
        found = reader.events(Table(path, rows, np.array(places, np.int64)), errors, problems)
        for part in (held, places, problems):
            part.clear()
        return found

    forms: dict[tuple[str, ...], dict[str, str]] = {}
    for number, line in lines(path, errors, reader.log_map.encoding):
        for found in _objects(line, reader.log_map.nested, number, problems):
            try:
                values = _values(found, reader, forms)
            except InvalidError as error:
                problems.append((number, error.reason, error.detail))
                continue
            odd = not all(value is None or isinstance(value, str) for value in values.values())
            if held and (odd or len(held) >= BATCH):
                yield events()
            held.append(values)
            places.append(number)
            if odd:
                yield events()
    if held or problems:
        yield events()


def _values(found: Values, reader: EventReader, forms: dict[tuple[str, ...], dict[str, str]]) -> Values:
    """Return the values of our columns. Raises InvalidError if one is missing."""
    names = tuple(found)
    if names not in forms:
        if len(forms) == _FORMS:
            forms.clear()
        forms[names] = columns(names, reader.log_map)
    return {column: _plain(column, found[name]) for column, name in forms[names].items()}


def _plain(column: str, value: object) -> object:
    """Return text for a text, and for a number that may be in `column`; other values as they are."""
    if isinstance(value, bool):
        return str(value) if column in {"click", "rating"} else value
    if isinstance(value, float):
        if value.is_integer() and abs(value) <= FLOAT_WHOLE:
            return str(int(value))
        return repr(value) if column in _NUMBERS or math.isnan(value) else value
    return str(value) if isinstance(value, int) else value


def _column(values: list[object]) -> pa.Array:
    if len(values) == 1 and not isinstance(values[0], str):
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):  # a list of several types
            return pa.array([[shown(values[0])]])
    return pa.array(values, pa.string())


def _objects(line: str, nested: str | None, number: int, problems: list[Problem]) -> Iterator[Values]:
    """Yield the object in a line, or those of its list `nested` with the fields around them.

    A line that is none is added to `problems`.
    """
    try:
        found = _decoded(line)
        if not isinstance(found, dict):
            raise InvalidError("not a JSON object", shown(line))  # noqa: TRY301
        inside: object = [{}] if nested is None else found.pop(nested, None)
        if not isinstance(inside, list) or not all(isinstance(one, dict) for one in inside):
            raise InvalidError(f"{nested} is no list of objects", shown(inside))  # noqa: TRY301
    except InvalidError as error:
        problems.append((number, error.reason, error.detail))
        return
    for one in inside:
        yield found | one if one else found


def _decoded(line: str) -> object:
    """Return what JSON a line holds; NaN and Infinity are taken, too. Raises InvalidError."""
    try:
        return _json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidError("not JSON", str(error)) from error
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise InvalidError("not UTF-8", shown(line)) from error
    return found
