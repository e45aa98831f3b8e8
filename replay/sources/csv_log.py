"""The generic exposure log (`log:`, `alipay:`): columns user, item, timestamp, event and optionally impression.

CSV with a header, JSON lines (both may be gzipped), or Parquet. Users, items and impressions are any strings or
integers; timestamp is epoch seconds, epoch milliseconds or ISO 8601; event is click or exposure. Other columns are
passed over, and the case of their names makes no difference. Every row is one event, identical rows too.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from replay.errors import InvalidError, Refusals, RowError, SourceError, shown
from replay.sources.columns import columns, row
from replay.sources.parquet_log import parquet
from replay.sources.schema import Row, batches
from replay.sources.text_lines import LINE_BYTES, lines
from streams.settings import Exposures

csv.field_size_limit(LINE_BYTES + 1)
_columns = functools.lru_cache(maxsize=16)(columns)  # most lines of a log have the same
_json = msgspec.json.Decoder()


def exposure_log(path: Path, _policy: Exposures, refusals: Refusals) -> Iterator[Any]:
    """Batches of `rows.ROWS` from a log whose format its file name says. Raises SourceError for other names."""
    if path.is_dir():
        raise SourceError(f"{path} is a folder: a file is needed here")
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return parquet(path, refusals)
    for ending, read in _TEXTS.items():
        if plain.endswith(ending):
            return batches(read(path, refusals))
    raise SourceError(f"{path}: a log ends in {', '.join(_TEXTS)} (each also with .gz) or .parquet")


def _csv_rows(path: Path, refusals: Refusals) -> Iterator[Row]:
    names: list[str] = []
    places: dict[str, int] = {}
    for number, line in lines(path, refusals):
        try:
            values = _split(line)
            if not names:
                names, places = values, _places(path, values)
                continue
            if len(values) != len(names):
                refusals.refuse(RowError(path, number, "wrong columns", f"{len(values)} instead of {len(names)}"))
                continue
            yield row({name: values[place] for name, place in places.items()})
        except InvalidError as error:
            refusals.refuse(RowError(path, number, error.reason, error.detail))


def _split(line: str) -> list[str]:
    """The fields of a line of CSV: quotes may hold commas, but no line ends. Raises InvalidError."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise InvalidError("not CSV", str(error)) from error


def _places(path: Path, names: list[str]) -> dict[str, int]:
    """Where each column stands. Raises SourceError where one is missing."""
    try:
        return {column: names.index(name) for column, name in columns(names).items()}
    except InvalidError as error:
        raise SourceError(f"{path}: {error.reason}: {error.detail}") from error


def _json_rows(path: Path, refusals: Refusals) -> Iterator[Row]:
    for number, line in lines(path, refusals):
        try:
            yield row(_object(line))
        except InvalidError as error:
            refusals.refuse(RowError(path, number, error.reason, error.detail))


def _object(line: str) -> dict[str, Any]:
    """The columns wanted of a line's JSON object. Raises InvalidError."""
    try:
        found = _json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidError("not JSON", str(error)) from error
    if not isinstance(found, dict):
        raise InvalidError("not a JSON object", shown(line))
    return {column: found[name] for column, name in _columns(tuple(found)).items()}


_TEXTS: Final[dict[str, Callable[[Path, Refusals], Iterator[Row]]]] = {
    ".csv": _csv_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".json": _json_rows,
}
