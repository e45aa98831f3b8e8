"""Item statistics, recomputed in whole numbers and without logarithms, one item and one epoch at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from streams.database import schema
from streams.verification.reference_ranking import CLICK, PAST_CLICK

_LAST, _MEAN = 23, 9  # the last bucket, and that of an item clicked as often as the mean item


class ReferenceItemStatistics:
    """The statistics of the items of a run, by epoch."""

    def __init__(self, connection: Connection, run: str) -> None:
        i = schema.interactions.c
        clicked = sa.case((i.kind.in_([CLICK, PAST_CLICK]), 1), else_=0)
        query = sa.select(i.item, i.epoch, sa.func.sum(clicked)).where(i.run == run).group_by(i.item, i.epoch)
        self._epochs: defaultdict[int, list[int]] = defaultdict(list)  # item -> epochs in which it was seen
        clicks: defaultdict[int, list[int]] = defaultdict(list)
        self._clicks_of_all: defaultdict[int, int] = defaultdict(int)
        for item, epoch, n in connection.execute(query.order_by(i.epoch)):
            self._epochs[item].append(epoch)
            clicks[item].append(n)
            self._clicks_of_all[epoch] += n
        self._before = {item: list(accumulate(each, initial=0)) for item, each in clicks.items()}
        self._totals: dict[int, tuple[int, int, int]] = {}
        self._seen: dict[int, list[int]] = {}

    def buckets(self, epoch: int, items: Sequence[int]) -> NDArray[np.uint8]:
        """Return the buckets of `items` at the begin of `epoch`: [n, 3]."""
        if epoch not in self._totals:
            self._totals[epoch] = self._count(epoch)
        return np.array([self._item(epoch, item) for item in items], np.uint8).reshape(-1, 3)

    def seen_before(self, epoch: int) -> list[int]:
        """Return the items seen before `epoch`, in ascending order."""
        if epoch not in self._seen:
            self._seen[epoch] = sorted(item for item, epochs in self._epochs.items() if epochs[0] < epoch)
        return self._seen[epoch]

    def _count(self, epoch: int) -> tuple[int, int, int]:
        """Return all clicks before `epoch`, those of the epoch before it, and the number of items seen."""
        total = sum(clicks for e, clicks in self._clicks_of_all.items() if e < epoch)
        return total, self._clicks_of_all.get(epoch - 1, 0), sum(epochs[0] < epoch for epochs in self._epochs.values())

    def _item(self, epoch: int, item: int) -> tuple[int, int, int]:
        epochs = self._epochs.get(item, [])
        earlier = bisect_left(epochs, epoch)  # number of epochs before this one in which the item was seen
        if not earlier:
            return 0, 0, 0
        total, all_recent, seen = self._totals[epoch]
        before = self._before[item]
        clicks = before[earlier]
        recent = clicks - before[earlier - 1] if epochs[earlier - 1] == epoch - 1 else 0
        age = min(1 + _half_octaves(epoch - epochs[0], 1), _LAST)
        return _share(clicks * seen, total), _share(recent * seen, all_recent), age


def _share(count: int, total: int) -> int:
    return min(max(_MEAN + _half_octaves(count, total), 1), _LAST) if count else 0


def _half_octaves(p: int, q: int) -> int:
    """Return the largest k with 2 ** k <= (p / q) ** 2."""
    p, q = p * p, q * q
    k = p.bit_length() - q.bit_length()
    is_lower_bound = p >= q << k if k >= 0 else p << -k >= q
    return k if is_lower_bound else k - 1
