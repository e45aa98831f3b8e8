"""The rows every reader yields: Arrow batches of one schema, in the order of the source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from streams.kafka.message import LATEST
from streams.records import Kind

ROWS = pa.schema(
    [
        pa.field("user", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),  # ms
        pa.field("kind", pa.int8(), nullable=False),
        pa.field("impression", pa.int64(), nullable=False),  # 0 where there is none
    ]
)
BATCH = 1 << 15
IMPRESSIONS = LATEST  # impressions' numbers are below it
NAME_BYTES = 256  # of a user or an item: with the limit of an impression this keeps every record below its own limit

Row = tuple[str, str, int, Kind, int]


def batches(rows: Iterable[Row]) -> Iterator[Any]:
    """Arrow batches of `ROWS` of at most BATCH rows from (user, item, time, kind, impression) tuples."""
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == BATCH:
            yield _batch(held)
            held = []
    if held:
        yield _batch(held)


def _batch(rows: list[Row]) -> Any:
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, ROWS, strict=True)], schema=ROWS)
