"""Partitions and positions of records, and the methods of confluent-kafka's classes that this project calls.

confluent-kafka ships no type information. Code takes these protocols, so that mypy checks its calls and a test can pass
an object of its own.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

TRACE_HEADER = "traceparent"  # of a record that belongs to a trace, as W3C's Trace Context writes it
Headers = list[tuple[str, bytes]]
DeliveryReport = Callable[["KafkaFailure | None", "KafkaMessage"], object]


class TopicPartition(NamedTuple):
    """A partition of a topic; `topic` is without the run prefix."""

    topic: str
    partition: int


class RecordPosition(NamedTuple):
    """The position of a record, written `device-events/1@35`, or `device-events/1@35.2` for the third of an envelope.

    `topic` is without the run prefix.
    """

    topic: str
    partition: int
    offset: int
    envelope_index: int = 0  # of the record in its envelope

    @classmethod
    def parse(cls, text: str) -> RecordPosition:
        """Return the position that `text` names. Raises ValueError."""
        found = re.fullmatch(r"([a-z-]+)/(\d{1,9})@(\d{1,18})(?:\.(\d{1,9}))?", text)
        if found is None:
            raise ValueError(f"{text!r} is no position of a record, such as topic/0@35")
        return cls(found[1], int(found[2]), int(found[3]), int(found[4] or 0))

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}" + (
            f".{self.envelope_index}" if self.envelope_index else ""
        )


class KafkaFailure(Protocol):
    """confluent_kafka.KafkaError: the reason of a failure."""

    def code(self) -> int:
        """Return the number of the error, a constant of KafkaError."""

    def str(self) -> builtins.str:
        """Return the reason in words."""


class KafkaMessage(Protocol):
    """confluent_kafka.Message: a record, or an error if `error()` is not None."""

    def error(self) -> KafkaFailure | None:
        """Return the error that the consumer reports instead of a record."""

    def topic(self) -> str:
        """Return the full name of the topic."""

    def partition(self) -> int:
        """Return the partition."""

    def offset(self) -> int:
        """Return the offset."""

    def key(self) -> bytes | None:
        """Return the key; None if the record has none."""

    def value(self) -> bytes | None:
        """Return the value; None in a tombstone."""

    def headers(self) -> Sequence[tuple[str, bytes]] | None:
        """Return names and values of the headers."""


class OffsetPartition(Protocol):
    """confluent_kafka.TopicPartition: a partition by its topic's full name, with an offset."""

    topic: str
    partition: int
    offset: int


class TopicMetadata(Protocol):
    """confluent_kafka.admin.TopicMetadata."""

    error: KafkaFailure | None
    partitions: Mapping[int, object]


class ClusterMetadata(Protocol):
    """confluent_kafka.admin.ClusterMetadata."""

    topics: Mapping[str, TopicMetadata]


class KafkaConsumer(Protocol):
    """confluent_kafka.Consumer."""

    def assign(self, partitions: Sequence[OffsetPartition], /) -> None:
        """Read these partitions from their offsets."""

    def poll(self, timeout: float, /) -> KafkaMessage | None:
        """Return the next record, or None after `timeout` seconds."""

    def consume(self, num_messages: int, timeout: float, /) -> list[KafkaMessage]:
        """Return up to `num_messages` records that came within `timeout` seconds."""

    def pause(self, partitions: Sequence[OffsetPartition], /) -> None:
        """Stop reading these partitions."""

    def resume(self, partitions: Sequence[OffsetPartition], /) -> None:
        """Read these partitions again."""

    def get_watermark_offsets(
        self, partition: OffsetPartition, *, timeout: float = ..., cached: bool = ...
    ) -> tuple[int, int]:
        """Return the first offset of a partition and its end, as last seen if `cached`. Raises KafkaException."""

    def list_topics(self, topic: str, timeout: float) -> ClusterMetadata:
        """Ask the broker about a topic. Raises KafkaException."""

    def offsets_for_times(self, partitions: Sequence[OffsetPartition], /, *, timeout: float) -> list[OffsetPartition]:
        """Return the first offset at or after the time that each partition has as offset, ms; -1 if there is none."""

    def committed(self, partitions: Sequence[OffsetPartition], /, *, timeout: float) -> list[OffsetPartition]:
        """Return the offsets that the consumer's group committed."""

    def close(self) -> None:
        """Close the consumer."""


class KafkaProducer(Protocol):
    """confluent_kafka.Producer."""

    def produce(
        self,
        topic: str,
        value: bytes | None = ...,
        key: bytes | None = ...,
        partition: int = ...,
        on_delivery: DeliveryReport | None = ...,
        headers: Headers | None = ...,
    ) -> None:
        """Put a record into the queue. Raises BufferError if the queue is full."""

    def __len__(self) -> int:
        """Return how many records are not acknowledged."""

    def poll(self, timeout: float, /) -> int:
        """Call the delivery reports that are due, waiting at most `timeout` seconds for one."""

    def list_topics(self, topic: str, timeout: float) -> object:
        """Return the broker's description of a topic. Raises KafkaException if no broker answers in time."""

    def flush(self, timeout: float = ..., /) -> int:
        """Wait up to `timeout` seconds for all acknowledgements; return how many records are still unacknowledged."""
