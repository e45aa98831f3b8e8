"""Sending records to device-events and counting what the broker acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from replay.send.progress import ReplayError
from streams.codec import encode
from streams.kafka import clients
from streams.kafka.partitioner import partition_of
from streams.process import telemetry
from streams.records import Mark
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS

QUEUE_KB = 65_536  # what may wait in memory for the broker


class Sender:
    """Batches and marks on their way to the broker. Within a partition their order is kept, also through retries."""

    def __init__(self, settings: Settings, offsets: list[int], events: list[int], batches: int) -> None:
        """`offsets`, `events` (both a partition) and `batches` say what was sent before."""
        self._producer = clients.producer(settings, "replay", **{"queue.buffering.max.kbytes": QUEUE_KB})
        self._topic = DEVICE_EVENTS.full(settings)
        self._waiting = 0
        self._error: Any = None
        self.offsets, self.events, self.batches = list(offsets), list(events), batches  # acknowledged

    def record(self, user: str, data: bytes, events: int) -> None:
        """Send a record to its user's partition; waits where the queue is full. `events` of it are to be counted."""
        key = user.encode()
        self._send(partition_of(key, len(self.events)), key, data, events)

    def mark(self, partition: int, mark: Mark) -> None:
        """Send a mark to one partition."""
        self._send(partition, None, encode(mark), 0)

    def _send(self, partition: int, key: bytes | None, value: bytes, events: int) -> None:
        clients.produce_patiently(
            self._producer,
            self._topic,
            key=key,
            value=value,
            meanwhile=self.poll,
            partition=partition,
            on_delivery=partial(self._delivered, events),
        )
        self._waiting += 1
        self.poll()

    def poll(self, seconds: float = 0.0) -> None:
        """Take note of what was delivered. Raises ReplayError where something can't be."""
        self._producer.poll(seconds)
        if self._error is not None:
            raise ReplayError(f"the broker did not take a record: {self._error}")

    def flush(self, idle: Callable[[], object] = lambda: None) -> None:
        """Return when everything is acknowledged. Raises ReplayError."""
        while self._waiting:
            self.poll(0.1)
            idle()

    def _delivered(self, events: int, error: Any, message: Any) -> None:
        self._waiting -= 1
        if error is not None:
            self._error = self._error or error
            return
        p = message.partition()
        self.offsets[p] = max(self.offsets[p], message.offset() + 1)
        self.events[p] += events
        if events:
            self.batches += 1
            telemetry.EVENTS_SENT.inc(events)
