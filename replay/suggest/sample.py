"""The first rows of a log as text, by column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import pyarrow as pa

from replay.errors import EmptyFileError, SourceError
from replay.sources.exposure_log import file_format
from replay.sources.log_map import LogMap
from replay.sources.parquet_log import open_parquet
from replay.sources.text.csv_form import check_csv, first_records, sniffed
from replay.sources.text.csv_log import is_utf8, utf8
from replay.suggest.usual_names import USUAL, plain

ROWS = 1000


@dataclass(frozen=True)
class Sample:
    """The columns of the first rows. `separator` and `header` are None for formats without them."""

    columns: dict[str, list[str]]
    separator: str | None = None
    header: bool | None = None
    nested: str | None = None
    comment: str | None = None
    is_utf8: bool = True


def sample(path: Path, log_map: LogMap) -> Sample:
    """Return the first rows of a file. Raises SourceError if it can't be read."""
    form = file_format(path)
    if form == "parquet":
        return _of_parquet(path)
    return _of_json(path, log_map) if form == "json" else _of_csv(path, log_map)


def _of_csv(path: Path, log_map: LogMap) -> Sample:
    head = next(utf8(path, log_map.encoding))
    check_csv(path, head)
    if log_map.comment is None and head.startswith(b"#"):
        log_map = msgspec.structs.replace(log_map, comment="#")
    separator = log_map.separator or sniffed(head, log_map)
    rows = list(islice(first_records(head, separator, log_map), ROWS + 1))
    if not rows:
        raise SourceError(f"{path}, line 1: not CSV") if head.strip() else EmptyFileError(f"{path} is empty")
    width = len(rows[0])
    others = len(rows) > 1
    rows = [row for row in rows if len(row) == width]
    if others and len(rows) == 1:
        raise SourceError(f"{path}: no row has the {width} fields of line 1, separated by {separator!r}")
    header = _is_header(rows) if log_map.header is None else log_map.header
    if len(rows) == header:
        raise SourceError(f"{path} has no row below its header")
    same = Counter(name.strip().lower() for name in rows[0])
    names = [
        name if header and name.strip() and same[name.strip().lower()] == 1 else str(number)
        for number, name in enumerate(rows[0], start=1)
    ]
    columns = dict(zip(names, map(list, zip(*rows[header:], strict=True)), strict=False))
    text = head[: head.rfind(b"\n") + 1]
    return Sample(columns, separator, header, comment=log_map.comment, is_utf8=is_utf8(text))


def _is_header(rows: list[list[str]]) -> bool:
    """Return True if line 1 has two usual column names, or no number although later lines have."""
    if sum(plain(text) in USUAL for text in rows[0]) > 1:
        return True
    return not any(map(_numeric, rows[0])) and any(_numeric(text) for row in rows[1:] for text in row)


def _numeric(text: str) -> bool:
    return text.strip().lstrip("-").replace(".", "", 1).isdecimal() or text[:4].isdecimal()


def _of_json(path: Path, log_map: LogMap) -> Sample:
    objects: list[dict[str, object]] = []
    for line in islice(next(utf8(path, log_map.encoding)).splitlines(), ROWS):
        try:
            objects.append(msgspec.json.decode(line, type=dict[str, object]))
        except (msgspec.DecodeError, RecursionError):
            continue
    if not objects:
        raise SourceError(f"{path}: no line is a JSON object")
    nested = next((name for name, value in objects[0].items() if _is_list_of_objects(value)), None)
    return Sample(_columns(_unnested(objects, nested)), nested=nested)


def _unnested(rows: list[dict[str, object]], nested: str | None) -> Iterator[dict[str, object]]:
    for row in rows:
        inside = row.get(nested) if nested else None
        outside = {name: value for name, value in row.items() if name != nested}
        if isinstance(inside, list):
            yield from (outside | each for each in inside if isinstance(each, dict))
        else:
            yield outside


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _of_parquet(path: Path) -> Sample:
    with open_parquet(path) as file:
        try:
            rows = [row for batch in islice(file.iter_batches(batch_size=ROWS), 1) for row in batch.to_pylist()]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise SourceError(f"{path}, near row 1: {error}") from error
    if not rows:
        raise EmptyFileError(f"{path} is empty")
    return Sample(_columns(iter(rows)))


def _flat(row: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the fields of an object, with those of the objects in it under their paths (`user.id`)."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((path, inner) for k, inner in _flat(value) if (path := f"{name}.{k}") not in row)
        else:
            yield name, value


def _columns(rows: Iterator[dict[str, object]]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for row in islice(rows, ROWS):
        for name, value in _flat(row):
            text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            columns.setdefault(name, []).append("" if value is None else text)
    return columns
