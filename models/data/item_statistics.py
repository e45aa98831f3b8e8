"""Item statistics at the beginning of an epoch: share of all clicks, share of the last epoch's clicks, and age.

A row of E is as old as the last retrain, and all unknown items share one row. Statistics are counted in the stream for
every item seen so far and are at most one epoch old. They are relative to the mean item and to the epoch, so that a
bucket means the same at any length of the log. Bucket 0 means never clicked, not clicked in the last epoch, and never
seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Buckets = NDArray[np.uint8]

FEATURES = ("clicks", "recent", "age")
BUCKETS = 24  # per feature, two per octave
MEAN = 9  # bucket of an item that is clicked as often as the mean item


def buckets(clicks: Ints, recent: Ints, age: Ints, totals: tuple[Ints, Ints, Ints]) -> Buckets:
    """Return counts of items [...] as buckets [..., 3]. `age` is in epochs, 0 if an item was not seen before.

    `totals` are the clicks of all items, those of the last epoch, and the number of items seen so far.
    """
    all_clicks, all_recent, items = totals
    age_bucket = np.where(age > 0, 1 + np.floor(2 * np.log2(np.maximum(age, 1))), 0)
    shares = _share(clicks, all_clicks, items), _share(recent, all_recent, items)
    return np.stack([*shares, np.minimum(age_bucket, BUCKETS - 1)], -1).astype(np.uint8)


def _share(count: Ints, total: Ints, items: Ints) -> NDArray[np.float64]:
    """Return the bucket of each count relative to the mean item's count, `total / items`."""
    lift = np.maximum(count, 1) * np.maximum(items, 1) / np.maximum(total, 1)
    return np.where(count > 0, np.clip(MEAN + np.floor(2 * np.log2(lift)), 1, BUCKETS - 1), 0)


@dataclass(frozen=True)
class ItemStatistics:
    """Statistics of all items after one epoch, for use in the next. Arrays [n] in order of `keys`, which are sorted."""

    epoch: int
    keys: Ints
    clicks: Ints
    recent: Ints  # clicks in `epoch`
    first: Ints  # epoch in which the item was first seen

    @classmethod
    def empty(cls) -> ItemStatistics:
        """Return the statistics before the first epoch."""
        none = np.zeros(0, np.int64)
        return cls(-1, none, none, none, none)

    def next_epoch(self, keys: Ints, clicks: Ints) -> ItemStatistics:
        """Return the statistics after the next epoch, in which `keys` [n] (sorted, distinct) got `clicks` [n]."""
        all_keys = np.union1d(self.keys, keys)
        old, new = np.searchsorted(all_keys, self.keys), np.searchsorted(all_keys, keys)
        epoch = self.epoch + 1
        total, recent, first = (
            np.zeros(len(all_keys), np.int64),
            np.zeros(len(all_keys), np.int64),
            np.full(len(all_keys), epoch),
        )
        total[old], first[old] = self.clicks, self.first
        recent[new] = clicks
        return ItemStatistics(epoch, all_keys, total + recent, recent, first)

    def buckets_of(self, keys: Ints) -> Buckets:
        """Return the buckets of items by key, in the next epoch: [n] -> [n, 3]."""
        if not len(self.keys):
            none = np.zeros(len(keys), np.int64)
            return buckets(none, none, none, self._totals)
        known, index = self._find(keys)
        counts = self.clicks[index], self.recent[index], self.epoch + 1 - self.first[index]
        clicks, recent, age = (np.where(known, each, 0) for each in counts)
        return buckets(clicks, recent, age, self._totals)

    def clicks_of(self, keys: Ints) -> Ints:
        """Return the clicks of items by key: [n]."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64)
        known, index = self._find(keys)
        return np.where(known, self.clicks[index], 0)

    def _find(self, keys: Ints) -> tuple[NDArray[np.bool_], Ints]:
        """Return a mask of the known items, and each item's index, arbitrary if unknown. Needs a known item."""
        index = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return self.keys[index] == keys, index

    def as_events(self) -> tuple[Ints, Ints, Ints]:
        """Return events that lead to these statistics: key, epoch and clicks of each, [2 n]."""
        last = np.full_like(self.first, self.epoch)
        return (
            np.concatenate([self.keys, self.keys]),
            np.concatenate([self.first, last]),
            np.concatenate([self.clicks - self.recent, self.recent]),
        )

    @cached_property
    def _totals(self) -> tuple[Ints, Ints, Ints]:
        """Totals over all items; cached, as every request of an epoch needs them."""
        return np.asarray(self.clicks.sum()), np.asarray(self.recent.sum()), np.asarray(len(self.keys))


@dataclass(frozen=True)
class ItemStatisticsByEpoch:
    """Statistics of all items at the beginning of every epoch of a log, by counting: any item and epoch at once."""

    span: int  # number of epochs plus one
    codes: Ints  # sorted: row * span + epoch of each event with clicks
    before: Ints  # [len(codes) + 1] clicks before each code
    first: Ints  # [rows] epoch in which the item was first seen; span: never
    clicks: Ints  # [span] clicks of all items before each epoch
    items: Ints  # [span] items seen before each epoch

    @classmethod
    def from_events(cls, rows: Ints, epochs: Ints, clicks: Ints, size: int) -> ItemStatisticsByEpoch:
        """Count the events of a log [N], given by row (below `size`), epoch and number of clicks."""
        span = int(epochs.max(initial=0)) + 2
        first = np.full(size, span, np.int64)
        np.minimum.at(first, rows, epochs)
        clicked = np.flatnonzero(clicks)
        codes = rows[clicked] * span + epochs[clicked]
        order = np.argsort(codes, kind="stable")
        by_epoch = np.zeros(span - 1, np.int64)
        np.add.at(by_epoch, epochs, clicks)
        items = np.searchsorted(np.sort(first), np.arange(span))
        return cls(span, codes[order], _sums(clicks[clicked][order]), first, _sums(by_epoch), items)

    def buckets_of(self, rows: Ints, epochs: Ints) -> Buckets:
        """Return the buckets of items `rows` [...] in `epochs` [...]: [..., 3]."""
        before = np.maximum(epochs - 1, 0)
        start, previous, now = (  # clicks of all earlier items, before the first epoch, the last one and this one
            self.before[np.searchsorted(self.codes, rows * self.span + epoch)] for epoch in (0 * epochs, before, epochs)
        )
        totals = self.clicks[epochs], self.clicks[epochs] - self.clicks[before], self.items[epochs]
        return buckets(now - start, now - previous, np.maximum(epochs - self.first[rows], 0), totals)


def _sums(values: Ints) -> Ints:
    """Return the cumulative sums, from 0 to the total: [n] -> [n + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
