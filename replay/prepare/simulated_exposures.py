"""Exposures for logs that have none: the policy `simulated`.

`logged` takes what the log says; `rated` is a matter of reading ratings (see movielens.py). `simulated` puts up to
SHOWN exposures before each click, in one unit with it: each is the item of an earlier event of the log drawn at random,
which is popularity before the event. It looks at the log's past only, never at what the user will do, so an exposed
item may be clicked later. The draws are a hash of (seed, place in the total order): the same log gives the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from replay.errors import SourceError
from replay.prepare import units
from replay.sources.schema import ROWS
from streams.records import Kind

SHOWN = 3
FRESH = 4096  # popularity is at most this many events old

_PLACED = ROWS.append(pa.field("place", pa.int64(), nullable=False))


class Popularity:
    """Counts of items, and draws in proportion to them."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self.names: list[str] = []
        self._counts = np.zeros(1024)
        self._total = np.zeros(0)  # cumulated counts as of the last `refresh`

    def codes(self, items: list[str]) -> NDArray[np.int64]:
        """The number of each item, counting its occurrences."""
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
        """Let draws see everything counted until now."""
        self._total = np.cumsum(self._counts[: len(self.names)])

    def draw(self, at: NDArray[np.float64]) -> NDArray[np.int64]:
        """Items at the points `at` of [0, 1) of the cumulated counts; -1 where nothing was counted yet."""
        if not self._total.size:
            return np.full(at.shape, -1)
        drawn: NDArray[np.int64] = np.searchsorted(self._total, at * self._total[-1], side="right")
        return drawn.clip(max=self._total.size - 1)


def uniform(seed: int, places: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) by SplitMix64 of (seed, place, draw), [places, draws]."""
    with np.errstate(over="ignore"):
        z = np.add.outer(places.astype(np.uint64) * np.uint64(draws), np.arange(1, draws + 1, dtype=np.uint64))
        z = (z + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    share: NDArray[np.float64] = (z >> np.uint64(11)) / 2.0**53
    return share


def simulated(path: Path, rows: int, seed: int, text: str) -> Iterator[Any]:
    """The first `rows` rows of a log in total order with exposures added, as batches with a column `place`.

    Raises SourceError where the log has exposures of its own.
    """
    popularity = Popularity()
    before, place, unit, written = None, 0, 0, 0
    for stretch in units.read(path, ROWS.names):
        start = 0
        while start < stretch.num_rows and place < rows:
            size = min(max(1, place // 8), FRESH, stretch.num_rows - start, rows - place)
            batch = stretch.slice(start, size)
            kinds = batch["kind"].to_numpy()
            if (kinds == Kind.EXPOSURE).any():
                raise SourceError(f"{text}: exposures can't be simulated, the log has its own: use the policy logged")
            begins = units.starts(batch, before)
            places = np.arange(place, place + size)
            unit_of = np.maximum.accumulate(np.where(begins, places, unit))
            popularity.refresh()
            drawn = popularity.draw(uniform(seed, places, SHOWN))
            added = _with_exposures(batch, drawn, popularity, unit_of, written)
            yield added
            before, unit = (batch["user"][-1].as_py(), batch["impression"][-1].as_py()), int(unit_of[-1])
            place, start, written = place + size, start + size, written + added.num_rows


def _with_exposures(
    batch: Any, drawn: NDArray[np.int64], popularity: Popularity, unit: NDArray[np.int64], written: int
) -> Any:
    """The batch with its exposures before each click; those that repeat the click or each other are left out."""
    target = popularity.codes(batch["item"].to_pylist())
    kinds = batch["kind"].to_numpy()
    keep = (drawn >= 0) & (drawn != target[:, None]) & (kinds == Kind.CLICK)[:, None]
    for one in range(1, drawn.shape[1]):
        keep[:, one] &= (drawn[:, :one] != drawn[:, one : one + 1]).all(axis=1)
    keep = np.append(keep, np.ones((len(target), 1), bool), axis=1)  # the row itself comes last
    row, column = np.nonzero(keep)
    own = column == drawn.shape[1]
    items = np.where(own, target[row], np.append(drawn, target[:, None], axis=1)[row, column])
    taken = batch.take(pa.array(row))
    names = pa.array(popularity.names, pa.string()).take(pa.array(items))
    kind = np.where(own, kinds[row], np.int8(Kind.EXPOSURE)).astype(np.int8)
    places = np.arange(written, written + len(row))
    return pa.record_batch(
        [taken["user"], names, taken["time"], pa.array(kind), pa.array(-1 - unit[row]), pa.array(places)],
        schema=_PLACED,
    )
