"""Reader of the generic exposure log (`log:`, `alipay:`): user, item, timestamp, event and optionally impression.

The format is CSV with a header or JSON lines (both may be gzipped), or Parquet. Users, items and impressions are any
strings or integers; timestamp is epoch seconds, epoch milliseconds or ISO 8601; event is click or exposure. Other
columns are ignored, and the case of column names makes no difference. Every row is one event, identical rows too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from replay.errors import InvalidError, RowError, RowErrors, SourceError
from replay.sources.columns import columns, row
from replay.sources.json_log import json_rows
from replay.sources.parquet_log import parquet
from replay.sources.schema import Row, batches
from replay.sources.text.containers import plain_name
from replay.sources.text.lines import LINE_BYTES, lines
from streams.settings import Exposures

JSON = (".jsonl", ".ndjson", ".json")

csv.field_size_limit(LINE_BYTES + 1)


def exposure_log(path: Path, _policy: Exposures, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.ROWS` from a log; its name gives the format: Parquet, JSON lines, or else CSV."""
    name = plain_name(path)
    if name.endswith(".parquet"):
        return parquet(path, errors)
    return batches((json_rows if name.endswith(JSON) else _csv_rows)(path, errors), errors)


def _csv_rows(path: Path, errors: RowErrors) -> Iterator[Row]:
    names: list[str] = []
    positions: dict[str, int] = {}
    for number, line in lines(path, errors):
        try:
            values = _split(line)
            if not names:
                names, positions = values, _positions(path, values)
                continue
            if len(values) != len(names):
                errors.add(RowError(path, number, "wrong columns", f"{len(values)} instead of {len(names)}"))
                continue
            yield row({name: values[position] for name, position in positions.items()})
        except InvalidError as error:
            errors.add(RowError(path, number, error.reason, error.detail))


def _split(line: str) -> list[str]:
    """Return the fields of a CSV line: quotes may hold commas, but no line ends. Raises InvalidError."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise InvalidError("not CSV", str(error)) from error


def _positions(path: Path, names: list[str]) -> dict[str, int]:
    """Return the position of each column in a line. Raises SourceError if one is missing."""
    try:
        return {column: names.index(name) for column, name in columns(names).items()}
    except InvalidError as error:
        raise SourceError(f"{path}: {error.reason}: {error.detail}") from error
