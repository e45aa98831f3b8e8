"""The log as received from devices with faults: lost uploads are removed, the other rows get a time of arrival.

In: the sorted log. Out: its rows with `arrival` and `position`, for `total_order.number`. A device numbers its
events when they enter its outbox, and the outbox keeps its order: whatever is delayed or lost, per-user order and
sequence numbers are preserved. Between users the order is that of arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from replay.faults import DELAY, LATENESS, MAX_OFFLINE_SPANS, OFFLINE_SPAN, SKEW, Faults, chance
from replay.prepare import impression_groups
from replay.sources.schema import POSITIONED, ROWS
from streams.records import Kind

WITH_ARRIVAL = pa.schema([*ROWS, pa.field("arrival", pa.int64(), nullable=False), POSITIONED.field("position")])


@dataclass
class _Device:
    """State of a device: error of its clock in ms, and arrival of its last upload."""

    clock_error: int
    arrived: int = 0
    span: int = -1  # of its last event
    online: int = 0  # time at which an offline device is online again; 0: it is online in `span`


class Fleet:
    """The devices of a log, created at their first upload. `counts` holds events by fault, and late clicks."""

    def __init__(self, faults: Faults, seed: int, counts: Counter[str] | None = None) -> None:
        self._faults, self._seed = faults, seed
        self._devices: dict[str, _Device] = {}
        self.counts = Counter[str]() if counts is None else counts

    def lost(self, user: str, seq: int) -> bool:
        """Return True if the upload that begins with event `seq` is lost; `seq` is that of the log without faults."""
        return chance("lost", self._seed, user, seq) < self._faults.lost

    def arrival(self, user: str, seq: int, time: int, events: int) -> int:
        """Return the arrival of the upload that begins at `time`, ms: not before earlier uploads of the same user."""
        device = self._device(user)
        ready = self._online(device, user, time)
        if ready:
            self.counts["offline"] += events
        else:
            ready = time
        if chance("reordered", self._seed, user, seq) < self._faults.reordered:
            ready += int(chance("delay", self._seed, user, seq) * DELAY)
            self.counts["reordered"] += events
        device.arrived = max(device.arrived, ready)
        return device.arrived

    def stamp(self, user: str, times: list[int], arrival: int) -> list[int]:
        """Return the event times of an upload by the device's clock, which may be wrong; none is after `arrival`."""
        error = self._device(user).clock_error
        if not error:
            return times
        self.counts["skew"] += len(times)
        return [max(0, min(time + error, max(time, arrival))) for time in times]

    def _device(self, user: str) -> _Device:
        if (device := self._devices.get(user)) is None:
            error = 0
            if chance("skew", self._seed, user, 0) < self._faults.skew:
                error = round((2 * chance("clock", self._seed, user, 0) - 1) * SKEW)
            device = self._devices[user] = _Device(error)
        return device

    def _online(self, device: _Device, user: str, time: int) -> int:
        """Return the time at which a device that is offline at `time` is online again; 0 if it is online at `time`.

        This is within an hour after the end of its last offline span.
        """
        span = time // OFFLINE_SPAN
        if span != device.span:
            end = span
            while end < span + MAX_OFFLINE_SPANS and chance("offline", self._seed, user, end) < self._faults.offline:
                end += 1
            back = int(chance("back", self._seed, user, end) * DELAY)
            device.span, device.online = span, end * OFFLINE_SPAN + back if end > span else 0
        return device.online


def late_arrivals(path: Path, rows: int, fleet: Fleet) -> Iterator[pa.RecordBatch]:
    """Yield the first `rows` rows of a sorted log as batches of `WITH_ARRIVAL`, in log order."""
    position, carried = 0, None
    for batch in impression_groups.read_batches(path, [*ROWS.names, "seq"]):
        table = batch.slice(0, max(0, rows - position))
        position += table.num_rows
        if carried is not None:
            table = impression_groups.joined(carried, table)
        if not table.num_rows:
            continue
        starts = np.flatnonzero(impression_groups.group_starts(table, None))
        last = int(starts[-1])  # this group may continue in the next batch
        carried = table.slice(last)
        if last:
            yield _with_arrival(table.slice(0, last), starts.tolist(), position - table.num_rows, fleet)
    if carried is not None and carried.num_rows:
        yield _with_arrival(carried, [0, carried.num_rows], position - carried.num_rows, fleet)


def _with_arrival(table: pa.RecordBatch, borders: list[int], position: int, fleet: Fleet) -> pa.RecordBatch:
    """Return the rows of complete groups between `borders`; `position` is that of the first row in the log."""
    users, seqs, times = (table[name].to_pylist() for name in ("user", "seq", "time"))
    kinds, arrivals = table["kind"].to_pylist(), list(times)
    keep: list[int] = []
    for first, end in pairwise(borders):
        user, seq = users[first], seqs[first]
        if fleet.lost(user, seq):
            fleet.counts["lost"] += end - first
            continue
        arrival = fleet.arrival(user, seq, times[first], end - first)
        times[first:end] = fleet.stamp(user, times[first:end], arrival)
        late = arrival - times[first] > LATENESS
        for i in range(first, end):
            arrivals[i] = arrival
            if late and kinds[i] == Kind.CLICK:
                kinds[i] = int(Kind.PAST_CLICK)
                fleet.counts["late_clicks"] += 1
        keep += range(first, end)
    positions = range(position, position + len(users))
    columns = [table["user"], table["item"], times, kinds, table["impression"], arrivals, positions]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, WITH_ARRIVAL, strict=True)]
    return pa.record_batch(arrays, schema=WITH_ARRIVAL).take(pa.array(keep, pa.int64()))
