"""Detection of a consumer that delivers nothing although the broker has records for it.

Seen with librdkafka 2.12: after its broker had been suspended for a minute, the learner's consumer delivered neither
records nor errors, and its cached ends of partitions did not change. The detector therefore asks the broker for the
ends; the caller then replaces the consumer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Assignment

from streams.kafka.types import KafkaConsumer, KafkaMessage, OffsetPartition, TopicPartition

STALLED_AFTER_S = 15.0
_GAP_S = 2.0  # ignore longer gaps between two checks: the consumer was not polling
_REQUEST_TIMEOUT_S = 2.0


class StalledError(RuntimeError):
    """The broker has records and the consumer does not deliver them."""


class StallDetector:
    """Watches a consumer of `assigned` partitions, each with the offset of its first record. Topic names are full."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        assigned: Iterable[OffsetPartition],
        clock: Callable[[], float] = time.monotonic,
        stalled_after_s: float = STALLED_AFTER_S,
    ) -> None:
        self._consumer, self._clock, self._stalled_after_s = consumer, clock, stalled_after_s
        self._next = {TopicPartition(each.topic, each.partition): max(each.offset, 0) for each in assigned}
        self._before: dict[TopicPartition, tuple[int, int]] = {}  # next offset and end of the partition, as last asked
        self._asked = self._checked = clock()

    def received(self, message: KafkaMessage) -> None:
        """Note a record that the consumer delivered."""
        self._next[TopicPartition(message.topic(), message.partition())] = message.offset() + 1

    def check(self, paused: Collection[TopicPartition] = ()) -> None:
        """Call this before each poll; `paused` partitions are not expected to deliver.

        Raises StalledError if during `stalled_after_s` of polling a partition had a record and did not deliver it.
        """
        now = self._clock()
        if now - self._checked > _GAP_S:
            self._before, self._asked = {}, now
        self._checked = now
        if now - self._asked < self._stalled_after_s:
            return
        before, self._before = self._before, {}
        for partition in sorted(self._next.keys() - set(paused)):
            try:
                low, high = self._consumer.get_watermark_offsets(Assignment(*partition), timeout=_REQUEST_TIMEOUT_S)
            except KafkaException:  # the broker is unavailable: that is no stall
                self._before = {}
                break
            at = max(self._next[partition], low)
            then, end = before.get(partition, (at, at))
            if at == then < end:
                raise StalledError(
                    f"{partition.topic}/{partition.partition}: {high - at} records wait and none came "
                    f"for {self._stalled_after_s:g} s"
                )
            self._before[partition] = at, high
        self._asked = self._checked = self._clock()
