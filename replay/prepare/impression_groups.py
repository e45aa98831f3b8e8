"""Impression groups in a sorted log, and the epochs that end between them.

An impression group is the events of one impression, or a single event without one. No limit, epoch or record splits a
group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.data.impression_groups import begins_group, same_group
from replay.errors import SourceError
from replay.times import span

DEFAULT_EPOCHS = 200


def read_batches(path: Path, columns: Sequence[str], rows: int = 1 << 16) -> Iterator[pa.RecordBatch]:
    """Yield Arrow batches of some columns of a Parquet file, in file order."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=rows, columns=list(columns), use_threads=False)


def as_array(column: pa.Array) -> NDArray[np.int64]:
    """Return numbers without nulls as an array. Uses DLPack: pyarrow's `to_numpy` imports pandas, most of a second."""
    return cast(NDArray[np.int64], np.from_dlpack(column))


def group_starts(batch: pa.RecordBatch, before: tuple[str, int] | None) -> NDArray[np.bool_]:
    """Return True for each row that starts an impression group, [rows].

    `before` is (user, impression) of the row before the batch.
    """
    user, impression = batch["user"], as_array(batch["impression"])
    same_user = as_array(pc.equal(user[1:], user[:-1]).cast(pa.uint8())).view(np.bool_)
    starts = begins_group(impression, same_user)
    continued = before is not None and before[0] == user[0].as_py() and same_group(before[1], int(impression[0]))
    starts[0] = not continued
    return starts


def joined(first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows of two batches as one batch."""
    return pa.Table.from_batches([first, second]).combine_chunks().to_batches()[0]


def last_key(batch: pa.RecordBatch) -> tuple[str, int]:
    """Return (user, impression) of the last row: the argument `before` of `group_starts` for the next batch."""
    return batch["user"][-1].as_py(), batch["impression"][-1].as_py()


def due_column(names: Sequence[str]) -> str:
    """Return the column with the time at which an event is due to be sent: `arrival` if present, else `time`."""
    return "arrival" if "arrival" in names else "time"


def group_rows(path: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (row numbers, due times in ms) of the first event of each group, a batch of the file at a time."""
    before, row, column = None, 0, due_column(pq.read_schema(path).names)
    for batch in read_batches(path, ["user", "impression", column]):
        starts = group_starts(batch, before)
        yield row + np.flatnonzero(starts), as_array(batch[column])[starts]
        before = last_key(batch)
        row += batch.num_rows


def rows_within(path: Path, rows: int, limit: int | None) -> int:
    """Return the largest number of rows, at most `limit`, that splits no group; `rows` without a limit."""
    if limit is None or limit >= rows:
        return rows
    last = 0
    for first, _ in group_rows(path):
        last = max([last, *first[first <= limit].tolist()])
        if first.size and first[-1] > limit:
            break
    return last


def epoch_ends(path: Path, rows: int, epoch: str | None) -> tuple[int, ...]:
    """Return for each epoch the number of the row after its last one; increasing, the last is `rows`.

    `epoch` is a span of event time (6h; epochs end at multiples of it since 1970) or a number of events (5000); None
    makes DEFAULT_EPOCHS of equal size. A group belongs to the epoch of its first event; no epoch is empty.
    Raises SourceError for anything else.
    """
    size, length = _size(rows, epoch)
    ends: list[int] = []
    current: int | None = None
    for all_rows, all_times in group_rows(path):
        inside = all_rows < rows
        first, times = all_rows[inside], all_times[inside]
        if not first.size:
            continue
        numbers = times // length if length else first // size
        changed = np.flatnonzero(np.diff(numbers, prepend=numbers[0] if current is None else current))
        ends.extend(first[changed].tolist())
        current = int(numbers[-1])
    return (*ends, rows)


def _size(rows: int, epoch: str | None) -> tuple[int, int]:
    """Return (events, ms) of an epoch; one of them is 0."""
    if epoch is None:
        return max(1, -(-rows // DEFAULT_EPOCHS)), 0
    if epoch.isdecimal() and int(epoch) > 0:
        return int(epoch), 0
    try:
        return 0, span(epoch)
    except ValueError as error:
        raise SourceError(f"epoch {epoch!r} is neither a number of events nor a span such as 6h") from error
