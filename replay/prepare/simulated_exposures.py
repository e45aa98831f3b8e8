"""The exposure policy `simulated`, for logs without exposures.

(`logged` takes the exposures of the log; `rated` is decided by the reader of ratings, see movielens.py.) Up to SHOWN
exposures are put before each click, in one impression group with it. Each is the item of an earlier event of the log
drawn at random, so its distribution is popularity before the click. Only the past of the log is used, so an exposed
item may be clicked later. A draw is a hash of (seed, position in the total order): the same log gives the same
exposures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from replay.errors import SourceError
from replay.prepare import impression_groups
from replay.sources.schema import POSITIONED, ROWS
from streams.records import Kind

SHOWN = 3
FRESH = 4096  # maximum age of the popularity counts, in events


class Popularity:
    """Counts of items, and random draws in proportion to them."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self.names: list[str] = []
        self._counts = np.zeros(1024)
        self._total = np.zeros(0)  # cumulative counts as of the last `refresh`

    def codes(self, items: list[str]) -> NDArray[np.int64]:
        """Count the items, and return the code of each, [items]."""
        for item in items:
            if item not in self._codes:
                self._codes[item] = len(self.names)
                self.names.append(item)
        codes = np.fromiter((self._codes[item] for item in items), np.int64, len(items))
        if len(self.names) > self._counts.size:
            self._counts = np.append(self._counts, np.zeros(max(len(self.names), self._counts.size)))
        np.add.at(self._counts, codes, 1)
        return codes

    def refresh(self) -> None:
        """Make everything counted so far available to draws."""
        self._total = np.cumsum(self._counts[: len(self.names)])

    def draw(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the item codes at `points` in [0, 1) of the cumulative counts; -1 before the first count."""
        if not self._total.size:
            return np.full(points.shape, -1)
        codes: NDArray[np.int64] = np.searchsorted(self._total, points * self._total[-1], side="right")
        return codes.clip(max=self._total.size - 1)


def uniform(seed: int, positions: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1) by SplitMix64 of (seed, position, draw), [positions, draws]."""
    with np.errstate(over="ignore"):
        z = np.add.outer(positions.astype(np.uint64) * np.uint64(draws), np.arange(1, draws + 1, dtype=np.uint64))
        z = (z + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    share: NDArray[np.float64] = (z >> np.uint64(11)) / 2.0**53
    return share


def simulated(path: Path, rows: int, seed: int, text: str) -> Iterator[pa.RecordBatch]:
    """Yield the first `rows` rows of a sorted log with exposures added, as batches with a column `position`.

    Raises SourceError if the log already has exposures.
    """
    popularity = Popularity()
    before, position, group, written = None, 0, 0, 0
    for stored in impression_groups.read_batches(path, ROWS.names):
        start = 0
        while start < stored.num_rows and position < rows:
            size = min(max(1, position // 8), FRESH, stored.num_rows - start, rows - position)
            batch = stored.slice(start, size)
            kinds = impression_groups.as_array(batch["kind"])
            if (kinds == Kind.EXPOSURE).any():
                raise SourceError(f"{text}: exposures can't be simulated, the log has its own: use the policy logged")
            positions = np.arange(position, position + size)
            starts = impression_groups.group_starts(batch, before)
            group_of = np.maximum.accumulate(np.where(starts, positions, group))
            popularity.refresh()
            drawn = popularity.draw(uniform(seed, positions, SHOWN))
            added = _with_exposures(batch, drawn, popularity, group_of, written)
            yield added
            before, group = impression_groups.last_key(batch), int(group_of[-1])
            position, start, written = position + size, start + size, written + added.num_rows


def _with_exposures(
    batch: pa.RecordBatch, drawn: NDArray[np.int64], popularity: Popularity, group: NDArray[np.int64], written: int
) -> pa.RecordBatch:
    """Insert the exposures before each click, without those that repeat the click or each other."""
    target = popularity.codes(batch["item"].to_pylist())
    kinds = impression_groups.as_array(batch["kind"])
    keep = (drawn >= 0) & (drawn != target[:, None]) & (kinds == Kind.CLICK)[:, None]
    for i in range(1, drawn.shape[1]):
        keep[:, i] &= (drawn[:, :i] != drawn[:, i : i + 1]).all(axis=1)
    keep = np.append(keep, np.ones((len(target), 1), bool), axis=1)  # the row itself comes last
    row, column = np.nonzero(keep)
    is_logged = column == drawn.shape[1]  # false: an added exposure
    items = np.append(drawn, target[:, None], axis=1)[row, column]
    logged = batch.take(pa.array(row))
    names = pa.array(popularity.names, pa.string()).take(pa.array(items))
    kind = np.where(is_logged, kinds[row], np.int8(Kind.EXPOSURE)).astype(np.int8)
    positions = np.arange(written, written + len(row))
    return pa.record_batch(
        [logged["user"], names, logged["time"], pa.array(kind), pa.array(-1 - group[row]), pa.array(positions)],
        schema=POSITIONED,
    )
