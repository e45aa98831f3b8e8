"""Parts of a log that are sorted in memory, and their merge: any number of rows in the memory of a few parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from replay.errors import SourceError
from replay.prepare.logged_impressions import Groups
from replay.prepare.staged_log import Columns, Ints, StagedLog, changes

_SAMPLES = 1 << 9  # number of keys of a normal part that are kept in memory


@dataclass(frozen=True)
class Order:
    """The total order of rows as one number: the time of the impression group, then the user if 63 bits hold both."""

    first: int  # the earliest time, ms
    users: int
    has_user: bool  # True if the key includes the user

    @classmethod
    def of(cls, log: StagedLog) -> Self:
        """Return the order for the rows of a log."""
        users = len(log.users)
        return cls(log.first, users, (log.last - log.first + 1) * users < 2**63)

    def keys(self, time: Ints, user: Ints) -> Ints:
        """Return the key of each row from the time of its group and its user."""
        return (time - self.first) * self.users + user if self.has_user else time

    def argsort(self, keys: Ints, user: Ints) -> Ints:
        """Return the stable order of rows by key and user, as indices."""
        return np.argsort(keys, kind="stable") if self.has_user else np.lexsort((user, keys))


@dataclass(frozen=True)
class SortedPart:
    """Rows in total order, with their keys and the per-user sequence number `seq`."""

    user: Ints
    item: Ints
    time: Ints
    kind: Ints
    impression: Ints
    seq: Ints
    key: Ints

    COLUMNS = ("user", "item", "time", "kind", "impression", "seq", "key")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.key)

    def slice(self, first: int, end: int) -> SortedPart:
        """Return the rows `first` .. `end` - 1."""
        return SortedPart(*(getattr(self, name)[first:end] for name in self.COLUMNS))


def with_group_starts(rows: Columns, groups: Groups) -> Columns:
    """Return `rows` with time, ns and row of the first event of their impression; rows without one keep their own."""
    has_none = groups.of_row < 0
    if has_none.all():
        return rows
    time, ns, row = (
        np.where(has_none, own, first[groups.of_row])
        for own, first in ((rows.time, groups.time), (rows.ns, groups.ns), (rows.row, groups.row))
    )
    return replace(rows, time=time, ns=ns, row=row)


def sort(rows: Columns, first: Columns, order: Order) -> SortedPart:
    """Return `rows`, which are in the order of the source, in total order; `first` is from `with_group_starts`."""
    keys = order.keys(first.time, rows.user)
    permutation = order.argsort(keys, rows.user)
    sorted_keys = keys[permutation]
    same = sorted_keys[1:] == sorted_keys[:-1]  # [rows - 1] a row has the key and the user of the row before it
    if not order.has_user:
        same &= rows.user[permutation][1:] == rows.user[permutation][:-1]
    misplaced, equal = np.zeros(len(same), np.bool_), same.copy()
    further_columns = (first.ns, first.row, rows.time, rows.ns)
    for column in further_columns:
        values = column[permutation]
        misplaced |= equal & (values[1:] < values[:-1])
        equal &= values[1:] == values[:-1]
    if misplaced.any():  # rows of one user at one time are not in the order of the source
        run = np.append(0, np.cumsum(~same))
        unsorted = np.zeros(int(run[-1]) + 1, np.bool_)  # by run
        unsorted[run[1:][misplaced]] = True
        positions = np.flatnonzero(unsorted[run])
        moved = permutation[positions]
        by = (rows.row[moved], *(c[moved] for c in reversed(further_columns)), run[positions])
        permutation[positions] = moved[np.lexsort(by)]
    user = rows.user[permutation]
    item, time = rows.item[permutation], rows.time[permutation]
    kind, impression = rows.kind[permutation], rows.impression[permutation]
    return SortedPart(user, item, time, kind, impression, _sequence_numbers(user), keys[permutation])


def ties(rows: Columns, of_row: Ints, order: Order) -> int:
    """Return the number of events with the same ms as another group of their user; `of_row` is that of `Groups`."""
    begins = np.append(True, of_row[1:] < 0)
    begins[changes(rows.user, of_row, rows.time)] = True
    starts = np.flatnonzero(begins)  # of events of one group at one time
    user, time = rows.user[starts], rows.time[starts]
    permutation = order.argsort(order.keys(time, user), user)
    user, time, group = user[permutation], time[permutation], of_row[starts][permutation]
    same = (time[1:] == time[:-1]) & (user[1:] == user[:-1])
    others = np.flatnonzero(same & ((group[1:] != group[:-1]) | (group[1:] < 0)))
    runs = np.append(0, np.cumsum(~same))
    events = np.bincount(runs, np.diff(np.append(starts, len(rows)))[permutation])
    return int(events[np.unique(runs[others])].sum())


class StoredPart:
    """A sorted part in memory, or on disk with a file for each column."""

    def __init__(self, part: SortedPart, folder: Path | None, size: int) -> None:
        """Write the part into `folder`, which is made; None: keep it. `size` is the usual number of rows of a part.

        Raises SourceError if a file can't be written.
        """
        self._part = part if folder is None else None
        self._folder, self.rows, self._every = folder, len(part), max(1, size // _SAMPLES)
        self.sample = part.key[:: self._every].copy()
        self._types = {name: getattr(part, name).dtype for name in part.COLUMNS}
        if folder is not None:
            try:
                folder.mkdir()
                for name in part.COLUMNS:
                    getattr(part, name).tofile(folder / name)
            except OSError as error:
                raise SourceError(f"{folder} can't be written: {error}") from error

    def position(self, key: int) -> int:
        """Return the number of rows whose key is less."""
        block = max(0, int(np.searchsorted(self.sample, key)) - 1) * self._every
        return block + int(np.searchsorted(self._read("key", block, self._every + 1), key))

    def read(self, first: int, end: int) -> SortedPart:
        """Return the rows `first` .. `end` - 1."""
        if self._part is not None:
            return self._part.slice(first, end)
        return SortedPart(*(self._read(name, first, end - first) for name in SortedPart.COLUMNS))

    def _read(self, name: str, first: int, rows: int) -> Ints:
        if self._folder is None:
            return np.asarray(getattr(self._part, name)[first : first + rows])
        dtype = self._types[name]
        return np.fromfile(self._folder / name, dtype, rows, offset=first * dtype.itemsize)


def merge(parts: Sequence[StoredPart], order: Order) -> Iterator[SortedPart]:
    """Yield the rows of all parts in total order, about half a part at a time. No user may be in two parts."""
    if len(parts) < 2:
        yield from (part.read(0, part.rows) for part in parts)
        return
    sample = np.sort(np.concatenate([part.sample for part in parts]))
    borders = np.unique(sample[_SAMPLES // 2 :: _SAMPLES // 2]).tolist()
    begins = [0] * len(parts)
    for border in [*borders, None]:
        ends = [part.rows if border is None else part.position(border) for part in parts]
        slices = [part.read(begin, end) for part, begin, end in zip(parts, begins, ends, strict=True) if begin < end]
        if slices:
            joined = SortedPart(*(np.concatenate([getattr(s, name) for s in slices]) for name in SortedPart.COLUMNS))
            permutation = order.argsort(joined.key, joined.user)
            yield SortedPart(*(getattr(joined, name)[permutation] for name in SortedPart.COLUMNS))
        begins = ends


def _sequence_numbers(user: Ints) -> Ints:
    """Return for each row the number of earlier rows of its user."""
    starts = changes(user)  # of runs: adjacent rows of one user
    sizes = np.diff(np.append(starts, len(user)))
    by_user = np.argsort(user[starts], kind="stable")  # runs, those of one user together
    before = np.cumsum(sizes[by_user]) - sizes[by_user]
    firsts = changes(user[starts][by_user])  # first run of each user
    before -= np.repeat(before[firsts], np.diff(np.append(firsts, len(by_user))))  # rows of earlier runs of the user
    offset = np.empty(len(by_user), np.int64)
    offset[by_user] = before - starts[by_user]
    return np.arange(len(user)) + np.repeat(offset, sizes)
