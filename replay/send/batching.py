"""Grouping of events into records: a user's events that are due in one tick are sent as one DeviceBatch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replay.send.sorted_log import ImpressionGroup, LogSlice
from streams.records import DeviceBatch

BATCH_EVENTS = 64  # maximum number of events of a batch, unless one impression group has more


def grouped(log: LogSlice, groups: Sequence[ImpressionGroup], wall_ms: int) -> Iterator[DeviceBatch]:
    """Yield batches of the impression groups `groups` of `log`: in order per user, without splitting a group."""
    pending: dict[str, list[int]] = {}
    for group in groups:
        rows = pending.get(group.user)
        if rows is None:
            pending[group.user] = list(range(group.first, group.end))
        elif len(rows) + group.end - group.first > BATCH_EVENTS:
            yield _batch(log, group.user, rows, wall_ms)
            pending[group.user] = list(range(group.first, group.end))
        else:
            rows.extend(range(group.first, group.end))
    for user, rows in pending.items():
        yield _batch(log, user, rows, wall_ms)


def _batch(log: LogSlice, user: str, rows: list[int], wall_ms: int) -> DeviceBatch:
    return DeviceBatch(
        user=user,
        seq=log.seqs[rows[0]],
        items=[log.items[i] for i in rows],
        kinds=bytes([log.kinds[i] for i in rows]),
        times=[log.times[i] for i in rows],
        impressions=[log.impressions[i] for i in rows],
        sent_wall=wall_ms,
    )
