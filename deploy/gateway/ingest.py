"""Sending of events to Kafka: a record is accepted once the broker has acknowledged it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from confluent_kafka import KafkaException

from streams.codec import Record, encode
from streams.kafka.message import trace_headers
from streams.kafka.partitioner import partition_of
from streams.kafka.tracing import tracing
from streams.kafka.types import KafkaFailure, KafkaMessage, KafkaProducer
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS, gone_after_ms

_POLL_S = 0.05


class UnacknowledgedError(RuntimeError):
    """The broker has not acknowledged a record in time, but may have it. Sending it again does no harm."""


class Ingest:
    """Sends records and waits for their acknowledgement. `close` it when the gateway stops."""

    def __init__(self, settings: Settings, producer: KafkaProducer, patience_s: float = 5.0) -> None:
        self._producer, self._patience_s = producer, patience_s
        self.tracing = tracing("gateway", settings.run)
        self._topic, self.partitions = DEVICE_EVENTS.full(settings), settings.partitions
        self.gone_after_ms = gone_after_ms(settings)  # time after which the topics have no event any more
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="gateway-delivery", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(_POLL_S)

    def close(self) -> None:
        """Wait for outstanding acknowledgements, and stop."""
        self._producer.flush(self._patience_s)
        self._stop.set()
        self._thread.join()

    async def put(self, user: str, record: Record) -> None:
        """Send a user's record. Raises UnacknowledgedError."""
        await self.send(partition_of(user.encode(), self.partitions), user.encode(), record)

    async def send(self, partition: int, key: bytes | None, record: Record) -> None:
        """Send a record to a partition. Raises UnacknowledgedError."""
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[None] = loop.create_future()
        try:
            self._producer.produce(
                self._topic,
                key=key,
                value=encode(record),
                partition=partition,
                on_delivery=_resolving(loop, acknowledged),
                headers=trace_headers(self.tracing.current()),
            )
            async with asyncio.timeout(self._patience_s):
                await acknowledged
        except (TimeoutError, BufferError, KafkaException) as error:
            raise UnacknowledgedError(str(error) or f"no acknowledgement within {self._patience_s} s") from error


def _resolving(
    loop: asyncio.AbstractEventLoop, acknowledged: asyncio.Future[None]
) -> Callable[[KafkaFailure | None, KafkaMessage], None]:
    """Return a delivery report, called in the polling thread, that resolves the future in the loop."""

    def resolve(error: KafkaFailure | None) -> None:
        if acknowledged.done():  # given up
            return
        if error is None:
            acknowledged.set_result(None)
        else:
            acknowledged.set_exception(UnacknowledgedError(error.str()))

    def delivered(error: KafkaFailure | None, _message: KafkaMessage) -> None:
        loop.call_soon_threadsafe(resolve, error)

    return delivered
