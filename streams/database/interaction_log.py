"""The log of a run from the tables as plain arrays, kept in memory between two retrains: only new rows are read.

A stream has no end, so a retrain takes the newest epochs only: what it costs does not grow with the age of the run.
"""

from __future__ import annotations

from collections import deque
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from models.data.interaction_log import InteractionLog, is_click
from models.data.item_statistics import ItemStatistics
from streams.database.schema import interactions

_CHUNK = 50_000
_NUMBERS = ("seq", "item", "kind", "time", "impression", "epoch", "group_time")

Ints = NDArray[np.int64]


class _Epoch(NamedTuple):
    users: Ints  # numbers, [N]
    columns: Ints  # [7, N]


def _nothing() -> _Epoch:
    return _Epoch(np.zeros(0, dtype=np.int64), np.zeros((len(_NUMBERS), 0), dtype=np.int64))


def _counts(epoch: _Epoch) -> tuple[Ints, Ints]:
    """The items of an epoch, and how often each was clicked in it."""
    _, items, kinds, *_ = epoch.columns
    keys, place = np.unique(items, return_inverse=True)
    return keys, np.bincount(place[is_click(kinds)], minlength=len(keys))


class Interactions:
    """What was recorded of `run`. After `load(k)` it holds epochs 0 to k, whatever else was recorded meanwhile.

    `most`: of these only the newest that hold so many events together, but always the last; None: all of them. Users
    and items of the others stay known, and how items stood.
    """

    def __init__(self, run: str, most: int | None = None) -> None:
        self._run, self._most = run, most
        self._loaded = -1
        self._numbers: dict[str, int] = {}  # user -> number, in order of arrival
        self._epochs: deque[_Epoch] = deque()
        self._before = ItemStatistics.empty()  # of items, after the epochs that were dropped
        self.keys: Ints = np.zeros(0, dtype=np.int64)  # items in order of their first appearance

    def load(self, connection: Connection, epoch: int | None = None) -> None:
        """Read the epochs after the last load, up to and including `epoch`; None: all that are recorded."""
        t = interactions.c
        last = connection.execute(sa.select(sa.func.max(t.epoch)).where(t.run == self._run)).scalar()
        last = -1 if last is None else last
        for number in range(self._loaded + 1, 1 + (last if epoch is None else min(epoch, last))):
            read = self._read(connection, number)
            self.keys = self._appended(read)
            self._epochs.append(read)
            while self._most is not None and len(self._epochs) > 1 and len(self) > self._most:
                self._before = self._before.next_epoch(*_counts(self._epochs.popleft()))
            self._loaded = number

    def __len__(self) -> int:
        return sum(len(each.users) for each in self._epochs)

    def _read(self, connection: Connection, epoch: int) -> _Epoch:
        t = interactions.c
        some = (t.run == self._run) & (t.epoch == epoch)
        query = sa.select(t.user, *(t[name] for name in _NUMBERS)).where(some)
        nothing = _nothing()
        users, columns = [nothing.users], [nothing.columns]
        for chunk in connection.execution_options(yield_per=_CHUNK).execute(query).partitions():
            names = list(map(itemgetter(0), chunk))
            for name in set(names).difference(self._numbers):
                self._numbers[name] = len(self._numbers)
            users.append(np.fromiter(map(self._numbers.__getitem__, names), dtype=np.int64, count=len(names)))
            columns.append(np.array([row[1:] for row in chunk], dtype=np.int64).T)
        return _Epoch(np.concatenate(users), np.concatenate(columns, axis=1))

    def log(self) -> InteractionLog:
        """All users' events; users are numbered in the order of their names."""
        epochs = [_nothing(), *self._epochs]
        rank = self._rank(np.arange(len(self._numbers)))[np.concatenate([each.users for each in epochs])]
        columns = np.concatenate([each.columns for each in epochs], axis=1)
        order = np.lexsort((columns[0], rank))
        _, item, kind, time, impression, epoch, _ = columns[:, order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=len(self._numbers)))])
        return InteractionLog(offsets, item, kind, time, impression, epoch, self._before)

    def users(self) -> list[str]:
        """The users as `log` numbers them."""
        return sorted(self._numbers)

    def _rank(self, users: Ints) -> Ints:
        """The place of each of `users`, numbers, among all of them in the order of names."""
        names = list(self._numbers)
        some, of = np.unique(users, return_inverse=True)
        order = sorted(range(len(some)), key=lambda i: names[some[i]])
        rank = np.empty(len(some), dtype=np.int64)
        rank[order] = np.arange(len(some))
        return rank[of]

    def _appended(self, new: _Epoch) -> Ints:
        """The known items and those of one more epoch, in its total order."""
        seq, item, *_, group_time = new.columns
        in_order = item[np.lexsort((seq, self._rank(new.users), group_time))]
        _, first = np.unique(in_order, return_index=True)
        appeared = in_order[np.sort(first)]
        return np.concatenate([self.keys, appeared[~np.isin(appeared, self.keys)]])
