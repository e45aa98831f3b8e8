"""How an item stands when an epoch begins: its share of all clicks, its share of late, its age. Beside its row of E.

A row of E knows an item as of the last retrain, and the row of unknown items knows nothing of any. What is counted in
the stream knows every item that was seen, and is an epoch old at most. Everything is relative, to the mean item and to
the epoch, so that a bucket means the same at any length of the log. Bucket 0: never clicked, not clicked in the last
epoch, never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Buckets = NDArray[np.uint8]

FEATURES = ("clicks", "recent", "age")
BUCKETS = 24  # of each; two to an octave
_MEAN = 9  # the bucket of an item that is clicked as often as the mean item


def buckets(clicks: Ints, recent: Ints, age: Ints, totals: tuple[Ints, Ints, Ints]) -> Buckets:
    """Counts of items [...] as buckets [..., 3]. `age` is in epochs, 0 where an item was not seen before.

    `totals` are the clicks of all items, those of the last epoch, and the items seen so far.
    """
    all_clicks, all_recent, items = totals
    aged = np.where(age > 0, 1 + np.floor(2 * np.log2(np.maximum(age, 1))), 0)
    shares = _share(clicks, all_clicks, items), _share(recent, all_recent, items)
    return np.stack([*shares, np.minimum(aged, BUCKETS - 1)], -1).astype(np.uint8)


def _share(count: Ints, total: Ints, items: Ints) -> NDArray[np.float64]:
    lift = np.maximum(count, 1) * np.maximum(items, 1) / np.maximum(total, 1)
    return np.where(count > 0, np.clip(_MEAN + np.floor(2 * np.log2(lift)), 1, BUCKETS - 1), 0)


@dataclass(frozen=True)
class ItemStatistics:
    """All items after one epoch, for what is served in the next. Arrays [n] in order of `keys`, which are sorted."""

    epoch: int
    keys: Ints
    clicks: Ints
    recent: Ints  # clicks in `epoch`
    first: Ints  # the epoch in which it was seen first

    @classmethod
    def empty(cls) -> ItemStatistics:
        """Before the first epoch."""
        none = np.zeros(0, np.int64)
        return cls(-1, none, none, none, none)

    def next_epoch(self, keys: Ints, clicks: Ints) -> ItemStatistics:
        """After one epoch more, in which `keys` (sorted, each once) were seen and clicked so often."""
        known = np.union1d(self.keys, keys)
        old, new = np.searchsorted(known, self.keys), np.searchsorted(known, keys)
        epoch = self.epoch + 1
        total, recent, first = (
            np.zeros(len(known), np.int64),
            np.zeros(len(known), np.int64),
            np.full(len(known), epoch),
        )
        total[old], first[old] = self.clicks, self.first
        recent[new] = clicks
        return ItemStatistics(epoch, known, total + recent, recent, first)

    def of(self, keys: Ints) -> Buckets:
        """Buckets of items by key, in the epoch that comes next: [n] -> [n, 3]."""
        place = np.searchsorted(self.keys, keys)
        place[place == len(self.keys)] = 0
        known = self.keys[place] == keys if len(self.keys) else np.zeros(len(keys), bool)

        def column(values: Ints) -> Ints:
            return np.where(known, values[place], 0) if len(values) else np.zeros(len(keys), np.int64)

        age = np.where(known, self.epoch + 1 - column(self.first), 0)
        return buckets(column(self.clicks), column(self.recent), age, self._totals)

    def as_events(self) -> tuple[Ints, Ints, Ints]:
        """Events that make this standing of all later epochs: the key, epoch and clicks of each, [2 n]."""
        last = np.full_like(self.first, self.epoch)
        return (
            np.concatenate([self.keys, self.keys]),
            np.concatenate([self.first, last]),
            np.concatenate([self.clicks - self.recent, self.recent]),
        )

    @cached_property
    def _totals(self) -> tuple[Ints, Ints, Ints]:
        """Of all items; asked for at every request of an epoch."""
        return np.asarray(self.clicks.sum()), np.asarray(self.recent.sum()), np.asarray(len(self.keys))


@dataclass(frozen=True)
class ItemStatisticsByEpoch:
    """All items at the beginning of every epoch of a log, by counting: `Standing` for any item and epoch at once."""

    span: int  # epochs, and one more
    places: Ints  # sorted: row * span + epoch of whatever has clicks
    before: Ints  # [len(places) + 1] clicks before each place
    first: Ints  # [rows] the epoch in which it was seen first; span: never
    clicks: Ints  # [span] clicks of all items before each epoch
    items: Ints  # [span] items seen before each epoch

    @classmethod
    def from_events(cls, rows: Ints, epochs: Ints, clicks: Ints, size: int) -> ItemStatisticsByEpoch:
        """From the events of a log [N]: the row of each (below `size`), its epoch, and how many clicks it is."""
        span = int(epochs.max(initial=0)) + 2
        first = np.full(size, span, np.int64)
        np.minimum.at(first, rows, epochs)
        some = np.flatnonzero(clicks)
        places = rows[some] * span + epochs[some]
        order = np.argsort(places, kind="stable")
        by_epoch = np.zeros(span - 1, np.int64)
        np.add.at(by_epoch, epochs, clicks)
        items = np.searchsorted(np.sort(first), np.arange(span))
        return cls(span, places[order], _sums(clicks[some][order]), first, _sums(by_epoch), items)

    def of(self, rows: Ints, epochs: Ints) -> Buckets:
        """Buckets of items `rows` [...] in `epochs` [...]: [..., 3]."""
        before = np.maximum(epochs - 1, 0)
        start, late, now = (
            self.before[np.searchsorted(self.places, rows * self.span + at)] for at in (0 * epochs, before, epochs)
        )
        totals = self.clicks[epochs], self.clicks[epochs] - self.clicks[before], self.items[epochs]
        return buckets(now - start, now - late, np.maximum(epochs - self.first[rows], 0), totals)


def _sums(values: Ints) -> Ints:
    """The sums of what is before each place and of all: [n] -> [n + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
