"""Reader of the generic exposure log (`log:`, `alipay:`): user, item, timestamp, event and optionally impression.

The format is Parquet, JSON lines or CSV in any container, or a folder of such parts. Users, items and impressions are
any strings or integers; timestamps and events are read as the map of the log says. Other columns are ignored, and the
case of column names makes no difference. Every row is one event, identical rows too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from replay.errors import RowErrors
from replay.sources.json_log import json_log
from replay.sources.log_map import LogMap
from replay.sources.parquet_log import parquet_log
from replay.sources.text.containers import plain_name
from replay.sources.text.csv_log import csv_log
from replay.values.events import EventReader
from streams.settings import Exposures

JSON = (".jsonl", ".ndjson", ".json")


def exposure_log(
    files: Sequence[Path], log_map: LogMap, policy: Exposures, errors: RowErrors
) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.ROWS` from the files; their names give the format: Parquet, JSON lines, or else CSV."""
    reader = EventReader(log_map, policy)
    for path in files:
        name = plain_name(path)
        if name.endswith(".parquet"):
            yield from parquet_log(path, reader, errors)
        elif name.endswith(JSON):
            yield from json_log(path, reader, errors)
        else:
            yield from csv_log(path, reader, errors)
