"""Items' standing on its way: counts of an epoch from the tables to the bus, and a reader's standings from the counts.

The coordinator publishes the counts of an epoch before its decision, so whoever knows the decision can know them. A
reader keeps the last few standings, and reads one that it can't make (it began late, a record was lost) from the
tables.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from models.data.item_statistics import BUCKETS, FEATURES, Buckets, Ints, ItemStatistics
from streams.codec import RecordError, Tensor
from streams.database.schema import interactions
from streams.records import ItemCounts, Kind

CHUNK = 50_000  # items of one record
KEPT = 8  # standings of a reader; lockstep needs two
KEPT_COUNTS = 256  # epochs whose counts are on the bus


def counts_of(connection: Connection, run: str, epoch: int) -> list[ItemCounts]:
    """What was seen and clicked in `epoch`, as it is published; one record at least."""
    i = interactions.c
    query = sa.select(i.item, _clicks()).where((i.run == run) & (i.epoch == epoch)).group_by(i.item).order_by(i.item)
    rows = np.array(connection.execute(query).all(), np.int64).reshape(-1, 2)
    parts = np.split(rows, range(CHUNK, len(rows), CHUNK))
    return [
        ItemCounts(epoch, n, len(parts), Tensor.of(part[:, 0], "<i8"), Tensor.of(part[:, 1], "<i8"))
        for n, part in enumerate(parts)
    ]


def standing_after(connection: Connection, run: str, epoch: int) -> ItemStatistics:
    """All items after `epoch`, counted in the tables."""
    i = interactions.c
    late = sa.func.sum(sa.case((_clicked() & (i.epoch == epoch), 1), else_=0))
    query = sa.select(i.item, _clicks(), late, sa.func.min(i.epoch)).where((i.run == run) & (i.epoch <= epoch))
    rows = connection.execute(query.group_by(i.item).order_by(i.item)).all()
    return ItemStatistics(epoch, *np.array(rows, np.int64).reshape(-1, 4).T.copy())


def _clicked() -> sa.ColumnElement[bool]:
    return interactions.c.kind.in_((Kind.CLICK, Kind.PAST_CLICK))


def _clicks() -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((_clicked(), 1), else_=0))


def counts_key(counts: ItemCounts) -> bytes:
    """The key on model-releases: the same again after KEPT_COUNTS epochs, so that the topic does not grow."""
    return b"counts/%d/%d" % (counts.epoch % KEPT_COUNTS, counts.chunk)


def buckets_array(data: bytes, n: int) -> Buckets:
    """The standing of `n` candidates as it travels: u1 [n, 3]; zeros where an older version sent none.

    Raises RecordError where it is none of so many.
    """
    if not data:
        return np.zeros((n, len(FEATURES)), np.uint8)
    found: Buckets = np.frombuffer(data, np.uint8)
    if found.size != n * len(FEATURES) or int(found.max(initial=0)) >= BUCKETS:
        raise RecordError(f"standing of {found.size} bytes, up to {found.max(initial=0)}, for {n} items")
    return found.reshape(n, len(FEATURES))


class ItemStatisticsCache:
    """Standings from counts, by epoch. Pure."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[int, ItemCounts]] = {}
        self._made: OrderedDict[int, ItemStatistics] = OrderedDict({-1: ItemStatistics.empty()})

    def take(self, counts: ItemCounts) -> None:
        """Take in a record. Raises RecordError where it can't be counts."""
        _check(counts)
        self._counts.setdefault(counts.epoch, {})[counts.chunk] = counts
        for epoch in sorted(self._counts)[:-KEPT_COUNTS]:
            del self._counts[epoch]

    def put(self, standing: ItemStatistics) -> None:
        """Take in a standing that was counted in the tables."""
        self._made[standing.epoch] = standing
        self._made.move_to_end(standing.epoch)
        while len(self._made) > KEPT:
            self._made.popitem(last=False)

    def find(self, epoch: int) -> ItemStatistics | None:
        """Return the standing after `epoch` (-1: before the first), where it can be made."""
        before = [e for e in self._made if e <= epoch]
        if not before:
            return None
        standing = self._made[max(before)]
        for each in range(standing.epoch + 1, epoch + 1):
            delta = self._whole(each)
            if delta is None:
                return None
            standing = standing.next_epoch(*delta)
            self.put(standing)
        self._made.move_to_end(epoch)
        return standing

    def newest(self) -> ItemStatistics:
        """Return the newest standing that can be made."""
        last = max(self._made)
        while self.find(last + 1) is not None:
            last += 1
        return self._made[last]

    def _whole(self, epoch: int) -> tuple[Ints, Ints] | None:
        chunks = self._counts.get(epoch, {})
        if not chunks or len(chunks) < chunks[min(chunks)].chunks:
            return None
        parts = [chunks[n] for n in sorted(chunks)]
        return np.concatenate([p.items.array() for p in parts]), np.concatenate([p.clicks.array() for p in parts])


def _check(counts: ItemCounts) -> None:
    if counts.epoch < 0 or not 0 <= counts.chunk < counts.chunks:
        raise RecordError(f"chunk {counts.chunk} of {counts.chunks} of epoch {counts.epoch}")
    items = counts.items.expect("items", "<i8", (None,))
    clicks = counts.clicks.expect("clicks", "<i8", items.shape)
    if (np.diff(items) <= 0).any() or (clicks < 0).any():
        raise RecordError("counts of items that are not in order, or below zero")
