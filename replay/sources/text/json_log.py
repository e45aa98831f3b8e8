"""Reader of logs in JSON lines: an object is an event, an impression, or has a list of events.

Lines of the same form are decoded to columns together by `JsonForm`. A block with lines of several forms is read value
by value as text, like CSV. A row with a value that is neither text nor a number is then a separate batch, and is
refused like such a row of a Parquet file.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from replay.errors import InvalidError, RowErrors, shown
from replay.sources.columns import FLOAT_WHOLE, columns
from replay.sources.paths import fields_at
from replay.sources.schema import BATCH
from replay.sources.text.csv_log import is_utf8, utf8
from replay.sources.text.csv_records import LINE_BYTES
from replay.sources.text.json_form import LISTS, JsonForm, json_form
from replay.values.events import EventReader, Problem
from replay.values.slates import split
from replay.values.table import Table

_FORMS = 16  # number of sets of fields in the cache: most lines of a log have the same fields
_NUMBERS = ("timestamp", "click", "rating")  # columns in which a float is not a name
_LINES = "write one object per line; jq -c . does so, and jq -c '.[]' for an array"
_json = msgspec.json.Decoder()

Values = dict[str, object]
Line = tuple[int, bytes]  # number and text


def json_log(path: Path, reader: EventReader, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.READ`; invalid lines and events are added to `errors`."""
    errors.opens(path)
    log, first = _JsonLog(path, reader), 1
    for data in _whole_lines(utf8(path, reader.log_map.encoding)):
        lines = [(first + n, line) for n, line in enumerate(data.split(b"\n")) if line.strip()]
        for table, problems in log.fast(lines, data) or log.slow(lines):
            yield reader.events(table, errors, problems)
        first += data.count(b"\n")


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield chunks of whole lines; a line that is too long is cut after LINE_BYTES + 2."""
    kept = b""
    for chunk in chunks:
        data = kept + chunk
        end = data.rfind(b"\n") + 1
        kept = data[end : end + LINE_BYTES + 2]
        if end:
            yield data[:end]
    if kept:
        yield kept


@dataclass
class _JsonLog:
    """Converter of the lines of a file to tables, and to problems for invalid lines."""

    path: Path
    reader: EventReader
    form: JsonForm | None = None  # of the latest lines
    names: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)  # by field names: those of each column
    paths: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Note the names that may be paths."""
        self.paths = self.reader.log_map.paths

    def fast(self, lines: list[Line], data: bytes) -> list[tuple[Table, list[Problem]]]:
        """Return the table of lines that are all of one form and in UTF-8; for others return nothing."""
        if not lines or not is_utf8(data) or max(len(line) for _, line in lines) > LINE_BYTES:
            return []
        self.form = self._form(lines[0][1])
        if self.form is None:
            return []
        decode, decoded, numbers = self.form.decoder.decode, [], []
        problems: list[Problem] = []
        for number, line in lines:
            try:
                decoded.append(decode(line))
            except (msgspec.MsgspecError, RecursionError):
                objects = self._objects(number, line, problems)
                if objects:  # valid JSON with other types of values
                    return []
            else:
                numbers.append(number)
        if problems:
            bad = {number for number, _, _ in problems}
            data = b"\n".join(line for number, line in lines if number not in bad)
        read = self.form.columns(decoded, np.array(numbers, np.int64), data)
        return [] if read is None else [(Table(self.path, *read), problems)]

    @cached_property
    def _quoted_names(self) -> list[bytes]:
        log_map = self.reader.log_map
        columns_read = dict.fromkeys((*log_map.needed, "impression", *log_map.named_columns))
        names = [*(log_map.named_columns.get(column, column) for column in columns_read), *log_map.timestamp_columns]
        names += [step for path in log_map.paths for step in path.split(".")]
        return [f'"{name}"'.encode() for name in dict.fromkeys(names)]

    def _form(self, line: bytes) -> JsonForm | None:
        objects = self._objects(0, line, [])
        form = json_form(objects[0], self.reader.log_map) if objects else None
        return self.form if form == self.form else form

    def slow(self, lines: list[Line]) -> Iterator[tuple[Table, list[Problem]]]:
        """Yield tables of lines of any form."""
        pending: list[Values] = []
        line_numbers: list[int] = []
        problems: list[Problem] = []

        def table() -> tuple[Table, list[Problem]]:
            names = dict.fromkeys([*self.reader.log_map.needed, *(name for values in pending for name in values)])
            arrays = [_column([values.get(name) for values in pending]) for name in names]
            rows = pa.RecordBatch.from_arrays(arrays, names=list(names))
            result = Table(self.path, rows, np.array(line_numbers, np.int64)), problems.copy()
            for part in (pending, line_numbers, problems):
                part.clear()
            return result

        for number, line in lines:
            for fields in self._objects(number, line, problems):
                try:
                    values = self._values(fields)
                except InvalidError as error:
                    problems.append((number, error.reason, error.detail))
                    continue
                other_type = not all(v is None or isinstance(v, str) for c, v in values.items() if c not in LISTS)
                if pending and (other_type or len(pending) >= BATCH):
                    yield table()
                pending.append(values)
                line_numbers.append(number)
                if other_type:
                    yield table()
        if pending or problems:
            yield table()

    def _values(self, fields: Values) -> Values:
        """Return the values of our columns. Raises InvalidError if one is missing or not valid Unicode."""
        fields = fields_at(fields, self.paths) if self.paths else fields
        names = tuple(fields)
        if names not in self.names:
            if len(self.names) == _FORMS:
                self.names.clear()
            self.names[names] = columns(names, self.reader.log_map)
        slate = self.reader.log_map.slate
        separator = slate.separator if slate else " "
        values = {c: _as_text(c, fields[name], separator) for c, name in self.names[names].items()}
        try:
            "".join(value for value in values.values() if isinstance(value, str)).encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise InvalidError("not UTF-8", shown(values)) from error
        return values

    def _objects(self, number: int, line: bytes, problems: list[Problem]) -> list[Values]:
        """Return the object of a line, or the objects of its list `nested`, each with the fields outside the list.

        An invalid line is added to `problems`.
        """
        nested = self.reader.log_map.nested
        try:
            fields = _decoded(line, self.reader.log_map.encoding)
            if any(line.count(name) > 1 for name in self._quoted_names):
                _check_unique(line)
            if not isinstance(fields, dict):
                hint = f": {_LINES}" if isinstance(fields, list) else ""
                raise InvalidError("not a JSON object", shown(fields) + hint)  # noqa: TRY301
            if nested is not None and "." in nested:
                fields = fields_at(fields, (nested,))
            inside: object = [{}] if nested is None else fields.pop(nested, None)
            if not isinstance(inside, list) or not all(isinstance(each, dict) for each in inside):
                raise InvalidError(f"{nested} is no list of objects", shown(inside))  # noqa: TRY301
        except InvalidError as error:
            problems.append((number, error.reason, error.detail))
            return []
        return [fields | each if each else fields for each in inside]


def _as_text(column: str, value: object, separator: str) -> object:
    """Return a value as text if it is text or a number that is valid in `column`; other values unchanged."""
    if column in LISTS:
        return _items(column, value, separator)
    if isinstance(value, bool):
        return str(value) if column in {"click", "rating"} else value
    if isinstance(value, float):
        if value.is_integer() and abs(value) <= FLOAT_WHOLE:
            return str(int(value))
        return repr(value) if column in _NUMBERS or math.isnan(value) else value
    return str(value) if isinstance(value, int) else value


def _items(column: str, value: object, separator: str) -> list[str] | None:
    """Return the items of an impression or a history. Raises InvalidError if it is neither a list nor text."""
    items = value if value is None or isinstance(value, list) else split(str(value), separator)
    if items is None or all(isinstance(item, str | int) and not isinstance(item, bool) for item in items):
        return items and [str(item) for item in items]
    raise InvalidError(f"{column} is no list of names", shown(value))


def _column(values: list[object]) -> pa.Array:
    if any(isinstance(value, list) for value in values) or (len(values) == 1 and not isinstance(values[0], str)):
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):  # a list of several types
            return pa.array([[shown(value)] for value in values])
    return pa.array(values, pa.string())


def _check_unique(line: bytes) -> None:
    """Raise InvalidError if an object of a line of JSON has a field twice: readers of JSON take either."""

    def unique(pairs: list[tuple[str, object]]) -> None:
        counts = Counter(name for name, _ in pairs)
        if len(counts) < len(pairs):
            raise InvalidError(
                "wrong columns", f"{counts.most_common(1)[0][0]} occurs twice in {shown(','.join(counts))}"
            )

    with suppress(RecursionError):
        json.loads(line, object_pairs_hook=unique)


def _decoded(line: bytes, encoding: str) -> object:
    """Return the decoded JSON of a line; NaN and Infinity are allowed. Raises InvalidError."""
    if len(line) > LINE_BYTES:
        raise InvalidError(f"line of more than {LINE_BYTES:,} bytes", "")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise InvalidError(f"not {encoding.upper()}", f"byte {error.start + 1} of the line") from error
    try:
        return _json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            hint = f": {_LINES}" if text.strip() in ("[", "{") or text.rstrip().endswith(",") else ""
            raise InvalidError("not JSON", f"{error}{hint}") from error
