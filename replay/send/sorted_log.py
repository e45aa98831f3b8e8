"""Reading a sorted log by row numbers, a row group in memory at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from replay.prepare import units
from replay.sources.schema import IMPRESSIONS


@dataclass(frozen=True)
class Unit:
    """Events of one impression, or one event without one: rows `first` .. `end` - 1 of a stretch."""

    user: str
    due: int  # the time of its first event, or of its arrival where that is later
    first: int
    end: int


@dataclass(frozen=True)
class Stretch:
    """Adjacent rows of the log as columns, and the units they form."""

    items: list[str]
    kinds: list[int]
    times: list[int]
    impressions: list[int]
    seqs: list[int]
    units: list[Unit]


class Log:
    """A sorted log, replayed `loops` times: rows are numbered on through the loops."""

    def __init__(self, path: Path, rows: int, loops: int, shift: int) -> None:
        """`rows` is the length of one loop, `shift` how much later each loop is, ms."""
        self._path, self._rows, self._shift = path, rows, shift
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self._held: tuple[int, Any] = (-1, None)
        self._counts: Counter[str] = Counter()
        if loops > 1:
            for batch in units.read(path, ["user"]):
                self._counts.update(batch["user"][: max(0, rows - self._counts.total())].to_pylist())

    def stretches(self, first: int, end: int) -> Iterator[Stretch]:
        """Rows `first` .. `end` - 1 in order. Both borders must be those of units, within one loop.

        A stretch ends where a unit ends, also where that unit goes on in the next row group.
        """
        loop, at = divmod(first, self._rows)
        end -= loop * self._rows
        carried = None
        while at < end:
            table = self._group(at, end)
            at += table.num_rows
            if carried is not None:
                table = _joined(carried, table)
            begins = np.flatnonzero(units.starts(table, None))
            if at < end:  # the last unit may go on
                last = int(begins[-1])
                carried, table, begins = table.slice(last), table.slice(0, last), begins[:-1]
            if table.num_rows:
                yield self._stretch(table, begins, loop)

    def _group(self, at: int, end: int) -> Any:
        """The rest of the row group that row `at` is in, up to row `end`."""
        number = bisect_right(self._ends, at)
        if self._held[0] != number:
            with pq.ParquetFile(self._path) as file:
                table = file.read_row_group(number, use_threads=False).combine_chunks()
            self._held = (number, table.to_batches()[0])
        begin = self._ends[number - 1] if number else 0
        return self._held[1].slice(at - begin, min(end, self._ends[number]) - at)

    def _stretch(self, table: Any, begins: Any, loop: int) -> Stretch:
        users = table["user"].to_pylist()
        times = (table["time"].to_numpy() + loop * self._shift).tolist()
        impressions, seqs = table["impression"].to_numpy(), table["seq"].to_pylist()
        if loop:
            impressions = _renumbered(impressions, loop)
            seqs = [seq + loop * self._counts[user] for seq, user in zip(seqs, users, strict=True)]
        borders = [*begins.tolist(), table.num_rows]
        due = (table[units.due(table.schema.names)].to_numpy() + loop * self._shift).tolist()
        found = [Unit(users[a], due[a], a, b) for a, b in pairwise(borders)]
        items, kinds = table["item"].to_pylist(), table["kind"].to_pylist()
        return Stretch(items, kinds, times, impressions.tolist(), seqs, found)


def _renumbered(impressions: Any, loop: int) -> Any:
    """Impressions of a later loop under numbers of their own: neighbours across the seam must not seem to be one."""
    with np.errstate(over="ignore"):
        mixed = np.abs(impressions).astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(loop)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return np.sign(impressions) * ((mixed % np.uint64(IMPRESSIONS)).astype(np.int64) | 1)


def _joined(first: Any, second: Any) -> Any:
    return pa.Table.from_batches([first, second]).combine_chunks().to_batches()[0]
