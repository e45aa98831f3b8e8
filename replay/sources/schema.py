"""The schema of the Arrow batches that every reader yields, in the order of the source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from replay.errors import RowErrors
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
POSITIONED = ROWS.append(pa.field("position", pa.int64(), nullable=False))  # in the total order
# A batch may have the positions of its rows: index of the file in RowErrors.files, and line (Parquet: row) in it.
POSITION = (pa.field("file", pa.int32()), pa.field("line", pa.int64()))
# A batch may have ns within the ms, which only decide the order of events.
FINER = pa.field("ns", pa.int32())
_NAME = pa.dictionary(pa.int32(), pa.string())
_NAMES = [field.with_type(_NAME) for field in ROWS if field.name in {"user", "item"}]
READ = pa.schema([*_NAMES, *list(ROWS)[2:], *POSITION, FINER])  # everything that a batch may have; each name once
BATCH = 1 << 15
IMPRESSIONS = LATEST  # the numbers of impressions are below it
NAME_BYTES = 256  # the longest user or item: with the limit of an impression this keeps records below their limit

Row = tuple[str, str, int, Kind, int]


def batches(rows: Iterable[Row], errors: RowErrors | None = None) -> Iterator[pa.RecordBatch]:
    """Yield Arrow batches of `ROWS`, of at most BATCH rows, from (user, item, time, kind, impression) tuples.

    With `errors`, in which the reader keeps its position (`opens` and `line`), they also have the columns POSITION.
    """
    pending: list[Row] = []
    positions: list[tuple[int, int | None]] = []
    for row in rows:
        pending.append(row)
        if errors is not None:
            positions.append((len(errors.files) - 1, errors.line))
        if len(pending) == BATCH:
            yield _batch(pending, positions)
            pending, positions = [], []
    if pending:
        yield _batch(pending, positions)


def _batch(rows: list[Row], positions: list[tuple[int, int | None]]) -> pa.RecordBatch:
    columns = [*zip(*rows, strict=True), *zip(*positions, strict=True)]
    schema = pa.schema([*ROWS, *POSITION]) if positions else ROWS
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
