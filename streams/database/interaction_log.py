"""The recorded interactions of a run as arrays. They stay in memory between two retrains: only new rows are read.

A stream has no end, so a retrain reads the newest epochs only: its cost does not grow with the age of the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from models.data.catalogue import Catalogue
from models.data.event_kinds import CLICK_KINDS
from models.data.interaction_log import InteractionLog, is_click
from models.data.item_statistics import ItemStatistics, ItemStatisticsByEpoch
from streams.database.schema import interactions

_CHUNK = 50_000
_COLUMNS = ("seq", "item", "kind", "time", "impression", "epoch", "group_time")

Ints = NDArray[np.int64]


class _Epoch(NamedTuple):
    users: Ints  # user numbers, [N]
    columns: Ints  # [7, N]


def _empty() -> _Epoch:
    return _Epoch(np.zeros(0, dtype=np.int64), np.zeros((len(_COLUMNS), 0), dtype=np.int64))


def _clicks(epoch: _Epoch) -> tuple[Ints, Ints]:
    """Return the items of an epoch, and their clicks in it."""
    _, items, kinds, *_ = epoch.columns
    keys, index = np.unique(items, return_inverse=True)
    return keys, np.bincount(index[is_click(kinds)], minlength=len(keys))


def item_statistics(connection: Connection, run: str) -> tuple[Catalogue, ItemStatisticsByEpoch]:
    """Return all items of `run`, and their statistics at the beginning of every epoch, counted by the database."""
    t = interactions.c
    clicks = sa.func.sum(sa.case((t.kind.in_(CLICK_KINDS), 1), else_=0))
    query = sa.select(t.item, t.epoch, clicks).where(t.run == run).group_by(t.item, t.epoch)
    chunks = connection.execute(query, execution_options={"yield_per": _CHUNK}).partitions()
    counts = (np.array([tuple(row) for row in chunk], np.int64) for chunk in chunks)
    items, epochs, clicked = np.concatenate([np.empty((0, 3), np.int64), *counts]).T
    catalogue = Catalogue(np.unique(items))
    return catalogue, ItemStatisticsByEpoch.from_events(catalogue.rows(items), epochs, clicked, catalogue.size)


class Interactions:
    """The recorded interactions of `run`. After `load(k)` it holds epochs 0 to k, even if later ones are recorded.

    `max_events`: keep the newest epochs that total at most so many events, but at least one epoch; None: all. Users,
    items and item statistics of the epochs dropped are kept. `of`: a query of users; only their events are read.
    """

    def __init__(self, run: str, max_events: int | None = None, of: sa.Select[tuple[str]] | None = None) -> None:
        self._run, self._max_events = run, max_events
        self._selected = interactions.c.run == run
        if of is not None:
            self._selected &= interactions.c.user.in_(of)
        self._loaded = -1
        self._numbers: dict[str, int] = {}  # user -> number, in order of arrival
        self._epochs: deque[_Epoch] = deque()
        self._before = ItemStatistics.empty()  # after the epochs that were dropped
        self.keys: Ints = np.zeros(0, dtype=np.int64)  # items in order of their first appearance

    def load(
        self, connection: Connection, epoch: int | None = None, progress: Callable[[], object] = lambda: None
    ) -> None:
        """Read the epochs after the last load, up to and including `epoch`; None: all that are recorded.

        `progress` is called after each of the parts in which rows are read.
        """
        t = interactions.c
        last = connection.execute(sa.select(sa.func.max(t.epoch)).where(t.run == self._run)).scalar()
        last = -1 if last is None else last
        for number in range(self._loaded + 1, 1 + (last if epoch is None else min(epoch, last))):
            read = self._read(connection, number, progress)
            self.keys = self._with_items_of(read)
            self._epochs.append(read)
            while self._max_events is not None and len(self._epochs) > 1 and len(self) > self._max_events:
                self._before = self._before.next_epoch(*_clicks(self._epochs.popleft()))
            self._loaded = number

    def __len__(self) -> int:
        return sum(len(each.users) for each in self._epochs)

    def _read(self, connection: Connection, epoch: int, progress: Callable[[], object]) -> _Epoch:
        t = interactions.c
        query = sa.select(t.user, *(t[name] for name in _COLUMNS)).where(self._selected & (t.epoch == epoch))
        empty = _empty()
        users, columns = [empty.users], [empty.columns]
        for chunk in connection.execute(query, execution_options={"yield_per": _CHUNK}).partitions():
            names = list(map(itemgetter(0), chunk))
            for name in set(names).difference(self._numbers):
                self._numbers[name] = len(self._numbers)
            users.append(np.fromiter(map(self._numbers.__getitem__, names), dtype=np.int64, count=len(names)))
            columns.append(np.array([row[1:] for row in chunk], dtype=np.int64).T)
            progress()
        return _Epoch(np.concatenate(users), np.concatenate(columns, axis=1))

    def log(self) -> InteractionLog:
        """Return all users' events; users are numbered in the order of their names."""
        epochs = [_empty(), *self._epochs]
        rank = self._rank(np.arange(len(self._numbers)))[np.concatenate([each.users for each in epochs])]
        columns = np.concatenate([each.columns for each in epochs], axis=1)
        order = np.lexsort((columns[0], rank))
        _, item, kind, time, impression, epoch, _ = columns[:, order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=len(self._numbers)))])
        return InteractionLog(offsets, item, kind, time, impression, epoch, self._before)

    def users(self) -> list[str]:
        """Return the users in the order of their numbers in `log`."""
        return sorted(self._numbers)

    def _rank(self, users: Ints) -> Ints:
        """Return the index of each of `users`, given by number, among them in the order of their names."""
        names = list(self._numbers)
        some, of = np.unique(users, return_inverse=True)
        order = sorted(range(len(some)), key=lambda i: names[some[i]])
        rank = np.empty(len(some), dtype=np.int64)
        rank[order] = np.arange(len(some))
        return rank[of]

    def _with_items_of(self, epoch: _Epoch) -> Ints:
        """Return the known items, then the new ones of one more epoch in its total order."""
        seq, item, *_, group_time = epoch.columns
        in_order = item[np.lexsort((seq, self._rank(epoch.users), group_time))]
        _, first = np.unique(in_order, return_index=True)
        appeared = in_order[np.sort(first)]
        return np.concatenate([self.keys, appeared[~np.isin(appeared, self.keys)]])
