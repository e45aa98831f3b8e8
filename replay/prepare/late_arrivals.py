"""A log as it arrives from a fleet with faults: what is lost is left out, the rest has times of arrival.

In: the sorted log. Out: its rows with `arrival` and their place, to be sorted by arrival (`order.arrived`). A device
numbers its events when they enter its outbox, and the outbox waits: so of one user nothing overtakes, and no number is
missing, whatever is delayed or lost. Between users the order is that of arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from replay.faults import DELAY, LATENESS, OFFLINE_MOST, OFFLINE_SPAN, SKEW, Faults, chance
from replay.prepare import units
from replay.sources.schema import ROWS
from streams.records import Kind

_NUMBERED = ["seq"]
ARRIVED = ROWS.append(pa.field("arrival", pa.int64(), nullable=False)).append(
    pa.field("place", pa.int64(), nullable=False)
)


@dataclass
class _Device:
    """What is known of a device: its clock's error, ms, and when its last upload arrived."""

    wrong: int
    arrived: int = 0
    span: int = -1  # of its last event
    online: int = 0  # when it has a connection again, 0: it has one in that span


class Fleet:
    """The devices of a log, met in its order. `told` counts what the faults did, in events but for late clicks."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._faults, self._seed = faults, seed
        self._devices: dict[str, _Device] = {}
        self.told: Counter[str] = Counter()

    def lost(self, user: str, seq: int) -> bool:
        """Whether the upload that begins with event `seq` of the sound log never leaves the device."""
        return chance("lost", self._seed, user, seq) < self._faults.lost

    def arrival(self, user: str, seq: int, time: int, events: int) -> int:
        """When that upload of so many events, begun at `time`, arrives: never before an earlier one of its user."""
        device = self._device(user)
        ready = self._online(device, user, time)
        if ready:
            self.told["offline"] += events
        else:
            ready = time
        if chance("reordered", self._seed, user, seq) < self._faults.reordered:
            ready += int(chance("delay", self._seed, user, seq) * DELAY)
            self.told["reordered"] += events
        device.arrived = max(device.arrived, ready)
        return device.arrived

    def stamp(self, user: str, times: list[int], arrival: int) -> list[int]:
        """The event times of an upload as they are taken: by the device's clock, but never later than it arrived."""
        wrong = self._device(user).wrong
        if not wrong:
            return times
        self.told["skew"] += len(times)
        return [max(0, min(time + wrong, max(time, arrival))) for time in times]

    def _device(self, user: str) -> _Device:
        if (device := self._devices.get(user)) is None:
            wrong = 0
            if chance("skew", self._seed, user, 0) < self._faults.skew:
                wrong = round((2 * chance("clock", self._seed, user, 0) - 1) * SKEW)
            device = self._devices[user] = _Device(wrong)
        return device

    def _online(self, device: _Device, user: str, time: int) -> int:
        """When the device, without a connection at `time`, has one again, within an hour of a span; 0: it has one."""
        span = time // OFFLINE_SPAN
        if span != device.span:
            end = span
            while end < span + OFFLINE_MOST and chance("offline", self._seed, user, end) < self._faults.offline:
                end += 1
            back = int(chance("back", self._seed, user, end) * DELAY)
            device.span, device.online = span, end * OFFLINE_SPAN + back if end > span else 0
        return device.online


def arrivals(path: Path, rows: int, fleet: Fleet) -> Iterator[Any]:
    """The first `rows` rows of a sorted log as batches of `ARRIVED`, in the order that they have in it."""
    place, held = 0, None
    for batch in units.read(path, [*ROWS.names, *_NUMBERED]):
        table = batch.slice(0, max(0, rows - place))
        place += table.num_rows
        if held is not None:
            table = pa.Table.from_batches([held, table]).combine_chunks().to_batches()[0]
        if not table.num_rows:
            continue
        begins = np.flatnonzero(units.starts(table, None))
        last = int(begins[-1])  # this unit may go on in the next batch
        held = table.slice(last)
        if last:
            yield _arrived(table.slice(0, last), begins.tolist(), place - table.num_rows, fleet)
    if held is not None and held.num_rows:
        yield _arrived(held, [0, held.num_rows], place - held.num_rows, fleet)


def _arrived(table: Any, borders: list[int], place: int, fleet: Fleet) -> Any:
    """Rows of whole units between `borders`, the first at `place` of the log."""
    users, seqs, times = (table[name].to_pylist() for name in ("user", "seq", "time"))
    kinds, when = table["kind"].to_pylist(), list(times)
    keep: list[int] = []
    for first, end in pairwise(borders):
        user, seq = users[first], seqs[first]
        if fleet.lost(user, seq):
            fleet.told["lost"] += end - first
            continue
        arrival = fleet.arrival(user, seq, times[first], end - first)
        times[first:end] = fleet.stamp(user, times[first:end], arrival)
        late = arrival - times[first] > LATENESS
        for i in range(first, end):
            when[i] = arrival
            if late and kinds[i] == Kind.CLICK:
                kinds[i] = int(Kind.PAST_CLICK)
                fleet.told["late_clicks"] += 1
        keep += range(first, end)
    columns = [table["user"], table["item"], times, kinds, table["impression"], when, range(place, place + len(users))]
    made = [pa.array(column, field.type) for column, field in zip(columns, ARRIVED, strict=True)]
    return pa.record_batch(made, schema=ARRIVED).take(pa.array(keep, pa.int64()))
