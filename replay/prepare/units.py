"""Where units begin in a log in total order, and the epochs whose borders they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from replay.errors import SourceError
from replay.times import span

DEFAULT_EPOCHS = 200


def read(path: Path, columns: list[str], rows: int = 1 << 16) -> Iterator[Any]:
    """Arrow batches of some columns of a Parquet file, in order."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=rows, columns=columns, use_threads=False)


def starts(batch: Any, before: tuple[str, int] | None) -> NDArray[np.bool_]:
    """Whether each row begins a unit, [rows]; `before` is (user, impression) of the row ahead of the batch."""
    user, impression = batch["user"], batch["impression"].to_numpy()
    begins = np.ones(batch.num_rows, bool)
    same = pc.equal(user[1:], user[:-1]).to_numpy(zero_copy_only=False)
    begins[1:] = ~same | (impression[1:] != impression[:-1]) | (impression[1:] == 0)
    begins[0] = before is None or before[1] == 0 or before != (user[0].as_py(), int(impression[0]))
    return begins


def due(names: list[str]) -> str:
    """The column that says when an event is due: its time of arrival where it is not its event time."""
    return "arrival" if "arrival" in names else "time"


def unit_rows(path: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(row numbers, times when they are due) of the first events of units, a stretch of the file at a time."""
    before, row, column = None, 0, due(pq.read_schema(path).names)
    for batch in read(path, ["user", "impression", column]):
        begins = starts(batch, before)
        yield row + np.flatnonzero(begins), batch[column].to_numpy()[begins]
        before = (batch["user"][-1].as_py(), batch["impression"][-1].as_py())
        row += batch.num_rows


def whole(path: Path, rows: int, limit: int | None) -> int:
    """The largest number of rows, at most `limit`, that ends where a unit ends; `rows` where there is no limit."""
    if limit is None or limit >= rows:
        return rows
    last = 0
    for first, _ in unit_rows(path):
        last = max([last, *first[first <= limit].tolist()])
        if first.size and first[-1] > limit:
            break
    return last


def epoch_ends(path: Path, rows: int, epoch: str | None) -> list[int]:
    """The row after each epoch's last, increasing, the last one `rows`.

    `epoch` is a span of event time (6h; its borders are multiples of it since 1970) or a number of events (5000); None
    makes DEFAULT_EPOCHS of equal size. A unit belongs to the epoch of its first event; no epoch is empty.
    Raises SourceError for anything else.
    """
    size, length = _size(rows, epoch)
    ends: list[int] = []
    current: int | None = None
    for all_rows, all_times in unit_rows(path):
        there = all_rows < rows
        first, times = all_rows[there], all_times[there]
        if not first.size:
            continue
        numbers = times // length if length else first // size
        at = np.flatnonzero(np.diff(numbers, prepend=numbers[0] if current is None else current))
        ends.extend(first[at].tolist())
        current = int(numbers[-1])
    return [*ends, rows]


def _size(rows: int, epoch: str | None) -> tuple[int, int]:
    """(events, ms) of an epoch, one of which is 0."""
    if epoch is None:
        return max(1, -(-rows // DEFAULT_EPOCHS)), 0
    if epoch.isdecimal() and int(epoch) > 0:
        return int(epoch), 0
    try:
        return 0, span(epoch)
    except ValueError as error:
        raise SourceError(f"epoch {epoch!r} is neither a number of events nor a span such as 6h") from error
