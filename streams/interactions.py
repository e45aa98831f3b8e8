"""The log of a run from the tables as plain arrays, kept in memory between two retrains: only new rows are read."""

from __future__ import annotations

from operator import itemgetter

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from models.log import Log
from streams.tables import interactions

_CHUNK = 50_000
_NUMBERS = ("seq", "item", "kind", "time", "impression", "epoch", "unit_time")

Ints = NDArray[np.int64]


class Interactions:
    """What was recorded of `run`. After `load(k)` it holds epochs 0 to k, whatever else was recorded meanwhile."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._loaded = -1
        self._numbers: dict[str, int] = {}  # user -> number, in order of arrival
        self._users: Ints = np.zeros(0, dtype=np.int64)
        self._columns: Ints = np.zeros((len(_NUMBERS), 0), dtype=np.int64)
        self.keys: Ints = np.zeros(0, dtype=np.int64)  # items in order of their first appearance

    def load(self, connection: Connection, epoch: int) -> None:
        """Read the epochs after the last load, up to and including `epoch`."""
        t = interactions.c
        some = (t.run == self._run) & (t.epoch > self._loaded) & (t.epoch <= epoch)
        query = sa.select(t.user, *(t[name] for name in _NUMBERS)).where(some)
        users, columns = [np.zeros(0, dtype=np.int64)], [self._columns[:, :0]]
        for chunk in connection.execution_options(yield_per=_CHUNK).execute(query).partitions():
            names = list(map(itemgetter(0), chunk))
            for name in set(names).difference(self._numbers):
                self._numbers[name] = len(self._numbers)
            users.append(np.fromiter(map(self._numbers.__getitem__, names), dtype=np.int64, count=len(names)))
            columns.append(np.array([row[1:] for row in chunk], dtype=np.int64).T)
        user, new = np.concatenate(users), np.concatenate(columns, axis=1)
        self.keys = self._appended(user, new)
        self._users = np.concatenate([self._users, user])
        self._columns = np.concatenate([self._columns, new], axis=1)
        self._loaded = max(self._loaded, epoch)

    def log(self) -> Log:
        """All users' events; users are numbered in the order of their names."""
        rank = self._rank()[self._users]
        seq, *_ = self._columns
        order = np.lexsort((seq, rank))
        _, item, kind, time, impression, epoch, _ = self._columns[:, order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=len(self._numbers)))])
        return Log(offsets, item, kind, time, impression, epoch)

    def users(self) -> list[str]:
        """The users as `log` numbers them."""
        return sorted(self._numbers)

    def _rank(self) -> Ints:
        """The place of each user, by number, in the order of names."""
        rank = np.empty(len(self._numbers), dtype=np.int64)
        rank[[self._numbers[name] for name in sorted(self._numbers)]] = np.arange(len(rank))
        return rank

    def _appended(self, user: Ints, new: Ints) -> Ints:
        """The known items and those of `new` rows, in total order within each epoch.

        Epochs come first, so that a load of several at once gives the same order as a load of each.
        """
        seq, item, _, _, _, epoch, unit_time = new
        in_order = item[np.lexsort((seq, self._rank()[user], unit_time, epoch))]
        _, first = np.unique(in_order, return_index=True)
        appeared = in_order[np.sort(first)]
        return np.concatenate([self.keys, appeared[~np.isin(appeared, self.keys)]])
