"""A consumer of given partitions from given offsets, used by every process that is not a Faust worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, KafkaException
from confluent_kafka import TopicPartition as Assignment

from streams.kafka import clients
from streams.kafka.message import Message
from streams.kafka.stall_detector import STALLED_AFTER_S, StallDetector
from streams.kafka.types import KafkaConsumer, KafkaMessage, OffsetPartition, TopicPartition
from streams.settings import Settings

log = logging.getLogger(__name__)
_REQUEST_TIMEOUT_S = 10.0
_MAX_RECORDS = 100  # Kafka records at once: each may be an envelope
QUEUE_KB = 65_536  # librdkafka's default


class PartitionConsumer:
    """Reads the partitions of `start` from their offsets and commits nothing: the caller keeps the offsets.

    `queue_kb` bounds what librdkafka fetches ahead. With `strict` an error that the consumer reports is raised as
    KafkaException, else it is logged and reading goes on. `consumer` defaults to a new one. For `stalled_after_s` see
    StallDetector.
    """

    def __init__(
        self,
        settings: Settings,
        role: str,
        start: Mapping[TopicPartition, int],
        *,
        strict: bool = False,
        queue_kb: int = QUEUE_KB,
        consumer: KafkaConsumer | None = None,
        stalled_after_s: float = STALLED_AFTER_S,
    ) -> None:
        self._prefix, self._role, self._strict = f"{settings.run}-", role, strict
        options = {"queued.max.messages.kbytes": queue_kb}
        self._consumer = clients.consumer(settings, role, **options) if consumer is None else consumer
        self._next = dict(start)
        assigned = [self._assignment(partition, offset or OFFSET_BEGINNING) for partition, offset in start.items()]
        self._consumer.assign(assigned)
        self._stall_detector = StallDetector(self._consumer, assigned, stalled_after_s=stalled_after_s)
        self._paused: AbstractSet[TopicPartition] = frozenset()

    def read(self, max_records: int, wait_s: float) -> list[Message]:
        """Return about `max_records` records, waiting at most `wait_s` for the first one; envelopes are not split.

        Raises StalledError if the broker has records that the consumer does not deliver: then make another consumer.
        """
        self._stall_detector.check({self._full(partition) for partition in self._paused})
        first = self._consumer.poll(wait_s)
        taken = [] if first is None else [first]
        received: list[Message] = []
        more = max_records  # an envelope counts as its records, an error as one
        while taken:
            opened = [self._opened(raw) for raw in taken]
            received += chain.from_iterable(opened)
            more -= sum(max(len(each), 1) for each in opened)
            taken = self._consumer.consume(min(more, _MAX_RECORDS), 0) if more > 0 else []
        return received

    def _opened(self, raw: KafkaMessage) -> list[Message]:
        if (error := raw.error()) is not None:
            if self._strict:
                raise KafkaException(error)
            log.warning("%s: the consumer reports %s", self._role, error)
            return []
        self._stall_detector.received(raw)
        messages = Message.of_kafka(raw.topic().removeprefix(self._prefix), raw)
        self._next[messages[0].source] = messages[0].offset + 1
        return messages

    def pause_only(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Pause `partitions` and resume all others. Resuming takes librdkafka up to a second."""
        if paused := partitions - self._paused:
            self._consumer.pause([self._assignment(partition) for partition in paused])
        if resumed := self._paused - partitions:
            self._consumer.resume([self._assignment(partition) for partition in resumed])
        self._paused = frozenset(partitions)

    def lag(self) -> dict[TopicPartition, int]:
        """Return for each partition the number of unread records, as far as the consumer knows the partition's end."""
        lag = {}
        for partition, offset in self._next.items():
            _, end = self._consumer.get_watermark_offsets(self._assignment(partition), cached=True)
            lag[partition] = max(end - offset, 0)
        return lag

    def has_unread(self, partition: TopicPartition) -> bool:
        """Ask the broker if the partition has records that were not read. Raises KafkaException."""
        _, end = self._consumer.get_watermark_offsets(self._assignment(partition), timeout=_REQUEST_TIMEOUT_S)
        return self._next[partition] < end

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _full(self, partition: TopicPartition) -> TopicPartition:
        return TopicPartition(self._prefix + partition.topic, partition.partition)

    def _assignment(self, partition: TopicPartition, *offset: int) -> OffsetPartition:
        return cast(OffsetPartition, Assignment(*self._full(partition), *offset))


OpenConsumer = Callable[..., PartitionConsumer]  # as PartitionConsumer itself
