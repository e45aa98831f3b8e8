"""Sending of records to device-events, with counts of the records that the broker acknowledged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from itertools import islice

from replay.send.fault_injection import OutgoingRecord
from replay.send.progress import ReplayError
from streams.codec import encode
from streams.kafka import clients
from streams.kafka.envelope import max_records, pack_records
from streams.kafka.partitioner import partition_of
from streams.kafka.types import KafkaFailure, KafkaMessage, KafkaProducer
from streams.process import telemetry
from streams.records import EpochMarker
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS

QUEUE_KB = 65_536  # maximum size of librdkafka's queue


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
        self._max_records = max_records(DEVICE_EVENTS, settings)
        self._unacknowledged = 0
        self._error: KafkaFailure | None = None
        self.offsets, self.events, self.batches = list(offsets), list(events), batches  # acknowledged

    def records(self, records: Iterable[OutgoingRecord]) -> None:
        """Send records that are due together, each to the partition of its user. Waits while the queue is full."""
        due: defaultdict[int, list[OutgoingRecord]] = defaultdict(list)
        for record in records:
            due[partition_of(record.user.encode(), len(self.events))].append(record)
        for partition, records_due in due.items():
            events = (each.events for each in records_due)
            pairs = ((each.user.encode(), each.value) for each in records_due)
            for key, value, packed in pack_records(pairs, self._max_records):
                counts = list(islice(events, packed))
                self._send(partition, key or None, value, sum(counts), sum(map(bool, counts)))

    def marker(self, partition: int, marker: EpochMarker) -> None:
        """Send an epoch marker to one partition."""
        self._send(partition, None, encode(marker), 0, 0)

    def _send(self, partition: int, key: bytes | None, value: bytes, events: int, batches: int) -> None:
        clients.produce_waiting(
            self._producer,
            self._topic,
            key=key,
            value=value,
            meanwhile=self.poll,
            partition=partition,
            on_delivery=partial(self._delivered, events, batches),
        )
        self._unacknowledged += 1
        self.poll()

    def poll(self) -> None:
        """Handle delivery reports. Raises ReplayError if a record could not be delivered."""
        self._producer.poll(0.0)
        if self._error is not None:
            raise ReplayError(f"the broker did not take a record: {self._error}")

    def flush(self) -> None:
        """Return when everything is acknowledged. Raises ReplayError."""
        while self._unacknowledged:
            self._producer.flush(0.1)  # at once, without lingering for further records
            self.poll()

    def _delivered(self, events: int, batches: int, error: KafkaFailure | None, message: KafkaMessage) -> None:
        self._unacknowledged -= 1
        if error is not None:
            self._error = self._error or error
            return
        p = message.partition()
        self.offsets[p] = max(self.offsets[p], message.offset() + 1)
        self.events[p] += events
        self.batches += batches
        if events:
            telemetry.EVENTS_SENT.inc(events)
