"""How items stood, counted once more: in whole numbers and without logarithms, an item and an epoch at a time."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from streams.database import schema
from streams.records import Kind

_LAST, _MEAN = 23, 9


class Stood:
    """The items of a run, by epoch."""

    def __init__(self, connection: Connection, run: str) -> None:
        i = schema.interactions.c
        clicked = sa.case((i.kind.in_([Kind.CLICK, Kind.PAST_CLICK]), 1), else_=0)
        query = sa.select(i.item, i.epoch, sa.func.sum(clicked)).where(i.run == run).group_by(i.item, i.epoch)
        self._epochs: defaultdict[int, list[int]] = defaultdict(list)  # by item, those in which it was seen
        clicks: defaultdict[int, list[int]] = defaultdict(list)
        self._of_all: defaultdict[int, int] = defaultdict(int)
        for item, epoch, n in connection.execute(query.order_by(i.epoch)):
            self._epochs[item].append(epoch)
            clicks[item].append(n)
            self._of_all[epoch] += n
        self._before = {item: list(accumulate(each, initial=0)) for item, each in clicks.items()}

    def before(self, epoch: int, items: Sequence[int]) -> NDArray[np.uint8]:
        """Buckets of `items` in `epoch`: [n, 3]."""
        return np.array([self._item(epoch, item) for item in items], np.uint8).reshape(-1, 3)

    @functools.cache  # noqa: B019 - as long as the certificate takes
    def _totals(self, epoch: int) -> tuple[int, int, int]:
        total = sum(clicks for e, clicks in self._of_all.items() if e < epoch)
        return total, self._of_all.get(epoch - 1, 0), sum(epochs[0] < epoch for epochs in self._epochs.values())

    def _item(self, epoch: int, item: int) -> tuple[int, int, int]:
        epochs = self._epochs.get(item, [])
        times = bisect_left(epochs, epoch)
        if not times:
            return 0, 0, 0
        total, late, seen = self._totals(epoch)
        before = self._before[item]
        own = before[times]
        recent = own - before[times - 1] if epochs[times - 1] == epoch - 1 else 0
        age = min(1 + _half_octaves(epoch - epochs[0], 1), _LAST)
        return _share(own * seen, total), _share(recent * seen, late), age


def _share(count: int, total: int) -> int:
    return min(max(_MEAN + _half_octaves(count, total), 1), _LAST) if count else 0


def _half_octaves(p: int, q: int) -> int:
    """The largest k with 2 ** k <= (p / q) ** 2."""
    p, q = p * p, q * q
    k = p.bit_length() - q.bit_length()
    enough = p >= q << k if k >= 0 else p << -k >= q
    return k if enough else k - 1
