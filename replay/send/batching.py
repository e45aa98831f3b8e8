"""Which events travel together: consecutive events of a user within one tick, as one record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replay.send.sorted_log import Stretch, Unit
from streams.records import DeviceBatch

BATCH_EVENTS = 64  # a batch holds no more, unless one impression does


def grouped(stretch: Stretch, units: Sequence[Unit], wall_ms: int) -> Iterator[DeviceBatch]:
    """The batches of some units of `stretch`: a user's in order, no unit split."""
    held: dict[str, list[int]] = {}
    for unit in units:
        rows = held.get(unit.user)
        if rows is None:
            held[unit.user] = list(range(unit.first, unit.end))
        elif len(rows) + unit.end - unit.first > BATCH_EVENTS:
            yield _batch(stretch, unit.user, rows, wall_ms)
            held[unit.user] = list(range(unit.first, unit.end))
        else:
            rows.extend(range(unit.first, unit.end))
    for user, rows in held.items():
        yield _batch(stretch, user, rows, wall_ms)


def _batch(stretch: Stretch, user: str, rows: list[int], wall_ms: int) -> DeviceBatch:
    return DeviceBatch(
        user=user,
        seq=stretch.seqs[rows[0]],
        items=[stretch.items[i] for i in rows],
        kinds=bytes([stretch.kinds[i] for i in rows]),
        times=[stretch.times[i] for i in rows],
        impressions=[stretch.impressions[i] for i in rows],
        sent_wall=wall_ms,
    )
