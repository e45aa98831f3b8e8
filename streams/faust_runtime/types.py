"""The parts of Faust, mode and aiokafka that this package uses, as protocols: none of them is typed."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from faust.types import TP

from streams.kafka.types import Headers


class FaustMessage(Protocol):
    """faust.types.Message: a record that Faust's consumer fetched."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] | None
    tp: TP
    generation_id: int  # of the consumer group when it was fetched
    tracked: bool  # a rebalance waits until it is acknowledged


class FaustEvent(Protocol):
    """faust.Event: a record in a stream."""

    @property
    def message(self) -> FaustMessage:
        """The record."""

    def ack(self) -> bool:
        """Acknowledge the record, so that its offset may be committed."""


class EventQueue(Protocol):
    """The queue of a Faust channel's iterator."""

    async def get(self) -> FaustEvent:
        """Return the next event, once there is one."""

    def get_nowait(self) -> FaustEvent:
        """Return the next event."""

    def empty(self) -> bool:
        """Return True if there is none."""


class ChannelIterator(Protocol):
    """An iterator over a Faust channel."""

    queue: EventQueue

    async def __anext__(self) -> FaustEvent:
        """Return the next event, once there is one."""


class Channel(Protocol):
    """faust.Channel: the source of an agent's events."""

    def __aiter__(self) -> ChannelIterator:
        """Begin to read."""


class Stream(Protocol):
    """faust.Stream: what Faust hands to an agent."""

    channel: Channel
    should_stop: bool


class Transport(Protocol):
    """A Faust transport: the classes of its consumer and its producer."""

    Consumer: type
    Producer: type


class RecordMetadata(Protocol):
    """aiokafka's acknowledgement of a batch."""

    offset: int  # of the first record


class RecordBatch(Protocol):
    """aiokafka's builder of a batch."""

    def append(self, *, key: bytes, value: bytes | None, timestamp: int | None, headers: Headers) -> object | None:
        """Add a record; None: it does not fit any more."""


class BatchProducer(Protocol):
    """aiokafka.AIOKafkaProducer."""

    def create_batch(self) -> RecordBatch:
        """Return an empty batch."""

    async def send_batch(self, batch: RecordBatch, topic: str, *, partition: int) -> Awaitable[RecordMetadata]:
        """Put a batch into the queue; return its acknowledgement to come."""


class GroupCoordinator(Protocol):
    """aiokafka's coordinator of a consumer group."""

    generation: int


class FetchedRecord(Protocol):
    """aiokafka.ConsumerRecord."""

    offset: int


class FetchingConsumer(Protocol):
    """aiokafka.AIOKafkaConsumer."""

    _coordinator: GroupCoordinator
    _fetch_max_wait_ms: int

    def assignment(self) -> set[TP]:
        """Return the partitions of this consumer."""

    def seek(self, partition: TP, offset: int) -> None:
        """Go on reading at an offset."""
