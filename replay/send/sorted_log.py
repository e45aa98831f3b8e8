"""Reader of a sorted log by row numbers, which keeps one Parquet row group in memory at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from replay.prepare import impression_groups
from replay.sources.schema import IMPRESSIONS


@dataclass(frozen=True)
class ImpressionGroup:
    """The events of one impression, or one event without one: rows `first` .. `end` - 1 of a slice of the log."""

    user: str
    due: int  # time of its first event, or of its arrival if that is later, ms
    first: int
    end: int


@dataclass(frozen=True)
class LogSlice:
    """Adjacent rows of the log as columns, and their impression groups."""

    items: list[str]
    kinds: list[int]
    times: list[int]
    impressions: list[int]
    seqs: list[int]
    groups: list[ImpressionGroup]


def events_by_user(path: Path, rows: int) -> Counter[str]:
    """Return the number of events of each user in the first `rows` rows of a sorted log."""
    counts: Counter[str] = Counter()
    for batch in impression_groups.read_batches(path, ["user"]):
        counts.update(batch["user"][: max(0, rows - counts.total())].to_pylist())
    return counts


class SortedLog:
    """A sorted log that is replayed `loops` times; row numbers continue from loop to loop."""

    def __init__(self, path: Path, rows: int, loops: int, shift: int) -> None:
        """`rows` is the length of one loop, `shift` the difference in event time between two loops, ms."""
        self._path, self._rows, self._shift = path, rows, shift
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self._number = -1  # of the row group in memory
        self._row_group: pa.RecordBatch | None = None
        self._counts = events_by_user(path, rows) if loops > 1 else Counter()

    def slices(self, first: int, end: int) -> Iterator[LogSlice]:
        """Yield rows `first` .. `end` - 1 in order. Both must be boundaries of impression groups, within one loop.

        A slice ends with a group, also if that group continues in the next Parquet row group.
        """
        loop, row = divmod(first, self._rows)
        end -= loop * self._rows
        carried = None
        while row < end:
            table = self._rest_of_row_group(row, end)
            row += table.num_rows
            if carried is not None:
                table = impression_groups.joined(carried, table)
            starts = np.flatnonzero(impression_groups.group_starts(table, None))
            if row < end:  # the last group may continue
                last = int(starts[-1])
                carried, table, starts = table.slice(last), table.slice(0, last), starts[:-1]
            if table.num_rows:
                yield self._slice(table, starts, loop)

    def _rest_of_row_group(self, row: int, end: int) -> pa.RecordBatch:
        """Return the rest of the Parquet row group that contains `row`, up to row `end`."""
        number = bisect_right(self._ends, row)
        if self._number != number:
            with pq.ParquetFile(self._path) as file:
                table = file.read_row_group(number, use_threads=False).combine_chunks()
            self._number, self._row_group = number, table.to_batches()[0]
        assert self._row_group is not None
        begin = self._ends[number - 1] if number else 0
        return self._row_group.slice(row - begin, min(end, self._ends[number]) - row)

    def _slice(self, table: pa.RecordBatch, starts: NDArray[np.intp], loop: int) -> LogSlice:
        users = table["user"].to_pylist()
        times = (impression_groups.as_array(table["time"]) + loop * self._shift).tolist()
        impressions, seqs = impression_groups.as_array(table["impression"]), table["seq"].to_pylist()
        if loop:
            impressions = _renumbered(impressions, loop)
            seqs = [seq + loop * self._counts[user] for seq, user in zip(seqs, users, strict=True)]
        due_column = table[impression_groups.due_column(table.schema.names)]
        due = (impression_groups.as_array(due_column) + loop * self._shift).tolist()
        groups = [ImpressionGroup(users[a], due[a], a, b) for a, b in pairwise([*starts.tolist(), table.num_rows])]
        items, kinds = table["item"].to_pylist(), table["kind"].to_pylist()
        return LogSlice(items, kinds, times, impressions.tolist(), seqs, groups)


def _renumbered(impressions: NDArray[np.int64], loop: int) -> NDArray[np.int64]:
    """Return new impression numbers for a later loop: its first must differ from the last of the previous loop."""
    with np.errstate(over="ignore"):
        mixed = np.abs(impressions).astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(loop)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    numbers: NDArray[np.int64] = np.sign(impressions) * ((mixed % np.uint64(IMPRESSIONS)).astype(np.int64) | 1)
    return numbers
