"""Send records to device-events, and count those that the broker acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from replay.send.progress import ReplayError
from streams.codec import encode
from streams.kafka import clients
from streams.kafka.partitioner import partition_of
from streams.kafka.types import KafkaFailure, KafkaMessage, KafkaProducer
from streams.process import telemetry
from streams.records import EpochMarker
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS

QUEUE_KB = 65_536  # the most that waits in memory for the broker


class Sender:
    """Sends batches and epoch markers. Order within a partition is preserved, also by retries."""

    def __init__(
        self,
        settings: Settings,
        offsets: list[int],
        events: list[int],
        batches: int,
        producer: KafkaProducer | None = None,
    ) -> None:
        """`offsets` and `events` (both per partition) and `batches` count what was sent before."""
        if producer is None:
            producer = clients.producer(settings, "replay", **{"queue.buffering.max.kbytes": QUEUE_KB})
        self._producer = producer
        self._topic = DEVICE_EVENTS.full(settings)
        self._waiting = 0
        self._error: KafkaFailure | None = None
        self.offsets, self.events, self.batches = list(offsets), list(events), batches  # acknowledged

    def record(self, user: str, value: bytes, events: int) -> None:
        """Send a record to the partition of its user; waits if the queue is full. It counts as `events` events."""
        key = user.encode()
        self._send(partition_of(key, len(self.events)), key, value, events)

    def marker(self, partition: int, marker: EpochMarker) -> None:
        """Send an epoch marker to one partition."""
        self._send(partition, None, encode(marker), 0)

    def _send(self, partition: int, key: bytes | None, value: bytes, events: int) -> None:
        clients.produce_waiting(
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
        """Handle delivery reports. Raises ReplayError if a record could not be delivered."""
        self._producer.poll(seconds)
        if self._error is not None:
            raise ReplayError(f"the broker did not take a record: {self._error}")

    def flush(self, idle: Callable[[], object] = lambda: None) -> None:
        """Return when everything is acknowledged. Raises ReplayError."""
        while self._waiting:
            self.poll(0.1)
            idle()

    def _delivered(self, events: int, error: KafkaFailure | None, message: KafkaMessage) -> None:
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
