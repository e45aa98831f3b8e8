"""Records that are sent to Kafka in whole batches and awaited until they are acknowledged.

Faust's `producer.flush()` cannot be used for that: it gives up after 0.1 s without a send, misses records that wait for
a full batch, and ignores failures.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import NamedTuple

import faust

from streams.faust_runtime.types import BatchProducer
from streams.kafka.types import Headers

KeyValue = tuple[bytes, bytes | None]  # of a record; None deletes the key
Row = tuple[bytes, bytes | None, Headers]


class Delivered(NamedTuple):
    """Records sent to one partition, in order."""

    rows: list[Row]
    last: int  # offset of the last one


class Outbox:
    """Collects records and sends them in batches per partition, in order.

    With `last_alone` the last record of a partition is a batch of its own. The embedded broker reports the first offset
    of the last batch, plus one, as the end of a topic; a table restored up to there would lack the rest of the batch.
    """

    def __init__(self, *, last_alone: bool = False) -> None:
        self._last_alone = last_alone
        self._records: defaultdict[tuple[str, int], list[Row]] = defaultdict(list)

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers | None = None) -> None:
        """Add a record to those of this partition."""
        self._records[topic, partition].append((key, value, headers or []))

    async def deliver(self, app: faust.App) -> dict[tuple[str, int], Delivered]:
        """Send all records, wait for the acknowledgements and return what was sent. Raises if one is refused."""
        records, self._records = self._records, defaultdict(list)
        producer = (await app.maybe_start_producer())._ensure_producer()  # noqa: SLF001 - aiokafka's, for whole batches
        delivered = await asyncio.gather(*(self._send(producer, *tp, rows) for tp, rows in records.items()))
        return dict(zip(records, delivered, strict=True))

    async def _send(self, producer: BatchProducer, topic: str, partition: int, rows: list[Row]) -> Delivered:
        acknowledgements = []
        batch, size = producer.create_batch(), 0
        for i, (key, value, headers) in enumerate(rows, start=1):
            alone = self._last_alone and i == len(rows) > 1
            if alone or batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
                batch, size = producer.create_batch(), 0
                batch.append(key=key, value=value, timestamp=None, headers=headers)
            size += 1
        acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
        metadata = await asyncio.gather(*acknowledgements)
        return Delivered(rows, metadata[-1].offset + size - 1)
