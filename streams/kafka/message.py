"""The record that a processor receives, the checks that all processors make first, and its dead letter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from streams.codec import MAX_BYTES, RecordError
from streams.kafka.envelope import unpack_envelope
from streams.kafka.partitioner import partition_of
from streams.kafka.types import TRACE_HEADER, Headers, KafkaMessage, RecordPosition, TopicPartition
from streams.records import LATEST, RANKED, DeadLetter, DeviceBatch, Kind
from streams.topics import TOPICS

_LAST_KIND = max(Kind)
_FRAME = 20_000  # bytes of a dead letter left for everything but the value, the reason included
_REASON = 1_000  # characters
_WITH_ENVELOPES = {topic.name for topic in TOPICS if topic.envelopes}
_TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
CUT = "(cut: the key had "  # in the reason of a dead letter that does not hold the whole record


class Message(NamedTuple):
    """A record with its position; `topic` is without the run prefix."""

    topic: str
    partition: int
    offset: int
    key: bytes  # empty if there is none
    value: bytes  # the same
    tombstone: bool = False  # True if the record has no value
    envelope_index: int = 0  # index of the record in its envelope
    trace: str = ""  # W3C's traceparent, if the record belongs to a trace: see streams/kafka/tracing.py

    @classmethod
    def of_kafka(cls, topic: str, raw: KafkaMessage) -> list[Message]:
        """Return the record, or those in the envelope, in confluent-kafka's message `raw` of `topic`."""
        return cls.received(topic, raw.partition(), raw.offset(), raw.key(), raw.value(), raw.headers())

    @classmethod
    def received(
        cls,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> list[Message]:
        """Return the Kafka record at a position, or the records in its envelope."""
        if value is not None and topic in _WITH_ENVELOPES and (records := unpack_envelope(value)) is not None:
            return [cls(topic, partition, offset, *each, False, i) for i, each in enumerate(records)]
        return [cls(topic, partition, offset, key or b"", value or b"", value is None, 0, _trace(headers))]

    @property
    def source(self) -> TopicPartition:
        """The partition that the record was read from."""
        return TopicPartition(self.topic, self.partition)

    @property
    def position(self) -> RecordPosition:
        """The position of the record."""
        return RecordPosition(self.topic, self.partition, self.offset, self.envelope_index)

    def refused(self, reason: str, role: str) -> DeadLetter:
        """Return the dead letter of this record, refused by `role`.

        Key and value are cut if they do not fit into a record; the reason then gives their lengths.
        """
        key, value = self.key, self.value
        if len(key) + len(value) > MAX_BYTES - _FRAME:
            reason = f"{reason} {CUT}{len(key)} bytes, the value {len(value)})"
            key = key[: _FRAME // 2]
            value = value[: MAX_BYTES - _FRAME - len(key)]
        return DeadLetter(*self[:3], key, value, reason[-_REASON:], role, self.envelope_index)

    def check_user(self, user: str, partitions: int) -> None:
        """Raise RecordError unless the record's key is its user and its partition is the user's."""
        key = user.encode()
        if not user or "\0" in user:
            raise RecordError("user is empty or has a NUL in it")
        if key != self.key:
            raise RecordError(f"record of user {user!r} under the key {self.key[:100]!r}")
        if partition_of(key, partitions) != self.partition:
            raise RecordError(f"user {user!r} belongs to partition {partition_of(key, partitions)}")


def trace_headers(trace: str) -> Headers:
    """Return the headers of a record that belongs to `trace`; none if it is empty."""
    return [(TRACE_HEADER, trace.encode())] if trace else []


def _trace(headers: Sequence[tuple[str, bytes]] | None) -> str:
    """Return the trace in the headers of a record; empty if there is none, or if it is malformed."""
    for name, value in headers or ():
        if name == TRACE_HEADER and _TRACEPARENT.fullmatch(value or b""):
            return value.decode()
    return ""


def check_batch(batch: DeviceBatch) -> None:
    """Raise RecordError if the columns of a batch are invalid. Device and recorder both call this."""
    n = len(batch.items)
    if not n or not n == len(batch.kinds) == len(batch.times) == len(batch.impressions):
        raise RecordError("columns are empty or of unequal length")
    if max(batch.kinds) > _LAST_KIND:
        raise RecordError(f"unknown kind of event {max(batch.kinds)}")
    if min(batch.times) < 0 or max(batch.times) >= LATEST:
        raise RecordError("a time is negative or too large")
    if max(batch.impressions) >= RANKED + LATEST or min(batch.impressions) <= -RANKED - LATEST:
        raise RecordError("an impression is too large")
    if not 0 <= batch.seq < LATEST - n:
        raise RecordError(f"seq {batch.seq} is negative or too large")
    if not all(batch.items) or "\0" in "".join(batch.items):
        raise RecordError("an item is empty or has a NUL in it")
