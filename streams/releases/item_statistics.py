"""Publication of clicks per epoch by the coordinator, and the item statistics that a reader derives from them.

The coordinator publishes the counts of an epoch before its decision, so that a process can read them before it acts on
the decision. A reader keeps the statistics of a few epochs. Statistics that it cannot derive from counts (it started
late, or a record was lost) are read from the tables.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from models.data.event_kinds import CLICK_KINDS
from models.data.item_statistics import BUCKETS, FEATURES, Buckets, Ints, ItemStatistics
from streams.codec import RecordError, Tensor
from streams.database.schema import interactions
from streams.release_records import ItemCounts

CHUNK = 50_000  # items per record
KEPT = 8  # epochs whose statistics a reader keeps; lockstep needs two
KEPT_COUNTS = 256  # epochs whose counts are on the topic


def counts_of(connection: Connection, run: str, epoch: int) -> list[ItemCounts]:
    """Return the records with the items seen in `epoch` and their clicks; at least one record."""
    i = interactions.c
    query = sa.select(i.item, _clicks()).where((i.run == run) & (i.epoch == epoch)).group_by(i.item).order_by(i.item)
    rows = _numbers(connection, query)
    parts = np.split(rows, range(CHUNK, len(rows), CHUNK))
    return [
        ItemCounts(epoch, n, len(parts), Tensor.of(part[:, 0], "<i8"), Tensor.of(part[:, 1], "<i8"))
        for n, part in enumerate(parts)
    ]


def statistics_after(connection: Connection, run: str, epoch: int) -> ItemStatistics:
    """Return the statistics of all items after `epoch`, counted in the tables."""
    i = interactions.c
    recent = sa.func.sum(sa.case((_clicked() & (i.epoch == epoch), 1), else_=0))
    query = sa.select(i.item, _clicks(), recent, sa.func.min(i.epoch)).where((i.run == run) & (i.epoch <= epoch))
    return ItemStatistics(epoch, *_numbers(connection, query.group_by(i.item).order_by(i.item)).T.copy())


def _numbers(connection: Connection, query: sa.Select[*tuple[int, ...]]) -> Ints:
    """Return the rows of a query for integers; numpy asks SQLAlchemy's own rows for attributes that they lack."""
    rows = [tuple(row) for row in connection.execute(query)]
    return np.array(rows, np.int64).reshape(-1, len(query.selected_columns))


def _clicked() -> sa.ColumnElement[bool]:
    return interactions.c.kind.in_(CLICK_KINDS)


def _clicks() -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((_clicked(), 1), else_=0))


def counts_key(counts: ItemCounts) -> bytes:
    """Return the key on model-releases. Keys repeat after KEPT_COUNTS epochs, so that the topic does not grow."""
    return b"counts/%d/%d" % (counts.epoch % KEPT_COUNTS, counts.chunk)


def buckets_array(data: bytes, n: int) -> Buckets:
    """Return the item statistics of `n` candidates in a record, u1 [n, 3]; zeros if an older version sent none.

    Raises RecordError if the length or a bucket is wrong.
    """
    if not data:
        return np.zeros((n, len(FEATURES)), np.uint8)
    found: Buckets = np.frombuffer(data, np.uint8)
    if found.size != n * len(FEATURES) or int(found.max(initial=0)) >= BUCKETS:
        raise RecordError(f"item statistics of {found.size} bytes, up to {found.max(initial=0)}, for {n} items")
    return found.reshape(n, len(FEATURES))


class ItemStatisticsCache:
    """Item statistics of the last epochs, derived from counts. Pure."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[int, ItemCounts]] = {}
        self._derived: OrderedDict[int, ItemStatistics] = OrderedDict({-1: ItemStatistics.empty()})

    def take(self, counts: ItemCounts) -> None:
        """Add a record. Raises RecordError if its numbers are impossible."""
        _check(counts)
        self._counts.setdefault(counts.epoch, {})[counts.chunk] = counts
        for epoch in sorted(self._counts)[:-KEPT_COUNTS]:
            del self._counts[epoch]

    def put(self, statistics: ItemStatistics) -> None:
        """Add statistics that were counted in the tables."""
        self._derived[statistics.epoch] = statistics
        self._derived.move_to_end(statistics.epoch)
        while len(self._derived) > KEPT:
            self._derived.popitem(last=False)

    def find(self, epoch: int) -> ItemStatistics | None:
        """Return the statistics after `epoch` (-1: before the first); None if counts are missing."""
        before = [e for e in self._derived if e <= epoch]
        if not before:
            return None
        statistics = self._derived[max(before)]
        for each in range(statistics.epoch + 1, epoch + 1):
            counts = self._complete(each)
            if counts is None:
                return None
            statistics = statistics.next_epoch(*counts)
            self.put(statistics)
        self._derived.move_to_end(epoch)
        return statistics

    def newest(self) -> ItemStatistics:
        """Return the newest statistics that can be derived."""
        last = max(self._derived)
        while self.find(last + 1) is not None:
            last += 1
        return self._derived[last]

    def _complete(self, epoch: int) -> tuple[Ints, Ints] | None:
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
        raise RecordError("items are not in ascending order, or a count is negative")
