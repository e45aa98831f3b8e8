"""Reader of a log in JSON lines: an object is an event, or has a list of them; other fields are ignored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa

from replay.errors import InvalidError, RowError, RowErrors, SourceError, shown
from replay.sources.columns import columns
from replay.sources.schema import Row, batches
from replay.sources.text.lines import lines
from replay.values.events import LEFT_OUT, EventReader

_FORMS = 16  # sets of fields whose meaning is kept: most lines of a log have the same
_json = msgspec.json.Decoder()


def json_log(path: Path, reader: EventReader, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.READ`; bad lines, and bad events in the list of a line, go to `errors`."""
    if reader.log_map.slate or reader.log_map.history:
        raise SourceError(f"{path}: slate and history are columns of CSV and Parquet; JSON lines have nested lists")
    return batches(_rows(path, reader, errors), errors)


def _rows(path: Path, reader: EventReader, errors: RowErrors) -> Iterator[Row]:
    forms: dict[tuple[str, ...], dict[str, str]] = {}
    for number, line in lines(path, errors, reader.log_map.encoding):
        objects = _objects(line, reader.log_map.nested)
        while True:
            try:
                found = next(objects, None)
                if found is None:
                    break
                names = tuple(found)
                if names not in forms:
                    if len(forms) == _FORMS:
                        forms.clear()
                    forms[names] = columns(names, reader.log_map)
                row = reader.row({column: found[name] for column, name in forms[names].items()})
            except InvalidError as error:
                errors.add(RowError(path, number, error.reason, error.detail))
                continue
            if row is None:
                errors.left_out[LEFT_OUT] += 1
            else:
                yield row


def _objects(line: str, nested: str | None) -> Iterator[dict[str, object]]:
    """Yield the object in a line, or those of its list `nested` with the fields around them. Raises InvalidError."""
    try:
        found = _json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            found = json.loads(line)  # it takes NaN, too
        except (ValueError, RecursionError):
            raise InvalidError("not JSON", str(error)) from error
    if not isinstance(found, dict):
        raise InvalidError("not a JSON object", shown(line))
    if nested is None:
        yield found
        return
    inside = found.pop(nested, None)
    if not isinstance(inside, list) or not all(isinstance(one, dict) for one in inside):
        raise InvalidError(f"{nested} is no list of objects", shown(inside))
    for one in inside:
        yield found | one
