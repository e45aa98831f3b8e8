"""The schema of the Arrow batches that every reader yields, in the order of the source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from streams.records import LATEST, Kind

ROWS = pa.schema(
    [
        pa.field("user", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),  # ms
        pa.field("kind", pa.int8(), nullable=False),
        pa.field("impression", pa.int64(), nullable=False),  # 0: none
    ]
)
BATCH = 1 << 15
IMPRESSIONS = LATEST  # the numbers of impressions are below it
NAME_BYTES = 256  # the longest user or item: with the limit of an impression this keeps records below their limit

Row = tuple[str, str, int, Kind, int]


def batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """Yield Arrow batches of `ROWS`, of at most BATCH rows, from (user, item, time, kind, impression) tuples."""
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == BATCH:
            yield _batch(held)
            held = []
    if held:
        yield _batch(held)


def _batch(rows: list[Row]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, ROWS, strict=True)], schema=ROWS)
