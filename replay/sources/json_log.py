"""Reader of the generic exposure log as JSON lines: one object per line, other fields are ignored."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import msgspec

from replay.errors import InvalidError, RowError, RowErrors, shown
from replay.sources.columns import columns, row
from replay.sources.schema import Row
from replay.sources.text.lines import lines

_columns = functools.lru_cache(maxsize=16)(columns)  # most lines of a log have the same fields
_json = msgspec.json.Decoder()


def json_rows(path: Path, errors: RowErrors) -> Iterator[Row]:
    """Yield the events of a file; bad lines go to `errors`."""
    for number, line in lines(path, errors):
        try:
            yield row(_object(line))
        except InvalidError as error:
            errors.add(RowError(path, number, error.reason, error.detail))


def _object(line: str) -> dict[str, object]:
    """Return the known columns of the JSON object in a line. Raises InvalidError."""
    try:
        found = _json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidError("not JSON", str(error)) from error
    if not isinstance(found, dict):
        raise InvalidError("not a JSON object", shown(line))
    return {column: found[name] for column, name in _columns(tuple(found)).items()}
