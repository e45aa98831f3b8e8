"""Reader of the generic exposure log (`log:`, `alipay:`): user, item, timestamp, event and optionally impression.

The format is CSV with a header or JSON lines (both may be gzipped), or Parquet. Users, items and impressions are any
strings or integers; timestamp is epoch seconds, epoch milliseconds or ISO 8601; event is click or exposure. Other
columns are ignored, and the case of column names makes no difference. Every row is one event, identical rows too.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from replay.errors import InvalidError, RowError, RowErrors, SourceError
from replay.sources.columns import columns, row
from replay.sources.json_log import json_rows
from replay.sources.parquet_log import parquet
from replay.sources.schema import Row, batches
from replay.sources.text.lines import LINE_BYTES, lines
from streams.settings import Exposures

csv.field_size_limit(LINE_BYTES + 1)


def exposure_log(path: Path, _policy: Exposures, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.ROWS` from a log; its file name gives the format. Raises SourceError for other names."""
    if path.is_dir():
        raise SourceError(f"{path} is a folder: a file is needed here")
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return parquet(path, errors)
    for ending, read in _TEXTS.items():
        if plain.endswith(ending):
            return batches(read(path, errors), errors)
    raise SourceError(f"{path}: a log ends in {', '.join(_TEXTS)} (each also with .gz) or .parquet")


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


_TEXTS: Final[dict[str, Callable[[Path, RowErrors], Iterator[Row]]]] = {
    ".csv": _csv_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".json": json_rows,
}
