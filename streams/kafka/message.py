"""A record as a processor got it, and the refusal of one: what all do before they look inside."""

from __future__ import annotations

from typing import Any, NamedTuple

from streams.codec import MAX_BYTES, RecordError
from streams.kafka.partitioner import partition_of
from streams.records import DeadLetter, DeviceBatch, Kind
from streams.settings import Settings

_LAST_KIND = max(Kind)
_ENVELOPE = 20_000  # bytes of a dead letter left for everything but the value, the reason included
_REASON = 1_000  # characters
CUT = "(cut: the key had "  # in the reason of a letter that does not hold the whole record
LATEST = 1 << 53  # event times and numbers from here up are refused: they'd not survive JSON


class Message(NamedTuple):
    """A record and where it stood; `topic` is without the run prefix."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes

    @classmethod
    def of(cls, event: Any, settings: Settings) -> Message:
        """The record in a Faust event."""
        message = event.message
        topic = message.topic.removeprefix(f"{settings.run}-")
        return cls(topic, message.partition, message.offset, message.key or b"", message.value or b"")

    @classmethod
    def taken(cls, topic: str, message: Any) -> Message:
        """The record in a confluent-kafka `message` of `topic` (without prefix)."""
        return cls(topic, message.partition(), message.offset(), message.key() or b"", message.value() or b"")

    def refused(self, reason: str, role: str) -> DeadLetter:
        """The dead letter of this record, refused by `role`.

        A value that would not fit into a record is cut; the reason then says how long it was.
        """
        key, value = self.key, self.value
        if len(key) + len(value) > MAX_BYTES - _ENVELOPE:
            reason = f"{reason} {CUT}{len(key)} bytes, the value {len(value)})"
            key = key[: _ENVELOPE // 2]
            value = value[: MAX_BYTES - _ENVELOPE - len(key)]
        return DeadLetter(self.topic, self.partition, self.offset, key, value, reason[-_REASON:], role)

    def check_user(self, user: str, partitions: int) -> None:
        """Raise RecordError where the record's key isn't its user, or its partition isn't the user's."""
        key = user.encode()
        if not user or "\0" in user:
            raise RecordError("user is empty or has a NUL in it")
        if key != self.key:
            raise RecordError(f"record of user {user!r} under the key {self.key[:100]!r}")
        if partition_of(key, partitions) != self.partition:
            raise RecordError(f"user {user!r} belongs to partition {partition_of(key, partitions)}")


def check_batch(batch: DeviceBatch) -> None:
    """Raise RecordError where the columns of a batch make no sense. Device and recorder refuse the same ones."""
    n = len(batch.items)
    if not n or {len(batch.kinds), len(batch.times), len(batch.impressions)} != {n}:
        raise RecordError("columns are empty or of unequal length")
    if max(batch.kinds) > _LAST_KIND:
        raise RecordError(f"unknown kind of event {max(batch.kinds)}")
    if min(batch.times) < 0 or max(batch.times) >= LATEST:
        raise RecordError("a time is negative or too large")
    if max(map(abs, batch.impressions)) >= LATEST:
        raise RecordError("an impression is too large")
    if not 0 <= batch.seq < LATEST - n:
        raise RecordError(f"seq {batch.seq} is negative or too large")
    if any(not item or "\0" in item for item in batch.items):
        raise RecordError("an item is empty or has a NUL in it")
