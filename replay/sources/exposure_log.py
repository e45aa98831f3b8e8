"""Reader of the generic exposure log (`log:`, `alipay:`): user, item, timestamp, event and optionally impression.

The format is Parquet, JSON lines or CSV in any container, or a folder of such parts. Users, items and impressions are
any strings or integers; timestamps and events are read as the map of the log says. Other columns are ignored, and the
case of column names makes no difference. Every row is one event, identical rows too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from replay.errors import EmptyFileError, RowErrors, SourceError
from replay.sources.log_map import LogMap
from replay.sources.parquet_log import parquet_log
from replay.sources.text.containers import DAMAGED, PARQUET, Parts, is_pipe, open_plain, plain_name
from replay.sources.text.csv_log import csv_log
from replay.sources.text.json_log import json_log
from replay.values.events import EventReader
from replay.values.slates import Histories
from streams.settings import Exposures

JSON = (".jsonl", ".ndjson", ".json")


def exposure_log(log: Parts, log_map: LogMap, policy: Exposures, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.ROWS` from the files, each in its own format."""
    files, histories = log.files, None
    log.report(errors)
    if log_map.history:
        if pipe := next((path for path in files if is_pipe(path)), None):
            raise SourceError(f"{pipe}: a log with a history column is read twice: save it into a file")
        plain = EventReader(msgspec.structs.replace(log_map, history=None), policy)
        first = [pc.min(batch["time"]).as_py() for batch in _batches(files, plain, RowErrors("skip")) if batch.num_rows]
        histories = Histories(min(first, default=0), log_map.slate.separator if log_map.slate else " ")
    yield from _batches(files, EventReader(log_map, policy, histories), errors)


def _batches(files: tuple[Path, ...], reader: EventReader, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    readers = {"parquet": parquet_log, "json": json_log, "csv": csv_log}
    empty: list[str] = []
    for path in files:
        try:
            if (form := file_format(path)) != "json" and reader.log_map.nested:
                raise SourceError(f"{path}: only JSON lines have a list of events, which `nested` names")
            yield from readers[form](path, reader, errors)
        except EmptyFileError:
            empty.append(str(path))
            if len(empty) == len(files):
                raise
    if empty:
        errors.doubt("empty-files", empty)


def file_format(path: Path) -> Literal["parquet", "json", "csv"]:
    """Return a file's format by its name, or else by its first bytes. Raises SourceError like `open_plain`."""
    name = plain_name(path)
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith((*JSON, ".csv", ".tsv")) or is_pipe(path):
        return "json" if name.endswith(JSON) else "csv"
    try:
        with open_plain(path) as file:
            head = file.read(16)
    except DAMAGED:  # its reader says what is wrong
        return "csv"
    return (
        "parquet" if head.startswith(PARQUET) else "json" if head.lstrip(b"\xef\xbb\xbf \n").startswith(b"{") else "csv"
    )
