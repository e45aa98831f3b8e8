"""Records on their way to Kafka in whole batches, each of them awaited: Faust's `producer.flush()` is no barrier.

It gives up after 0.1 s without a send, misses what waits on a full batch, and ignores failures.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, NamedTuple

import faust

KeyValue = tuple[bytes, bytes | None]  # of a record; None: its key is deleted


class Delivered(NamedTuple):
    """What one partition was sent, in order, and the offset of the last of it."""

    rows: list[KeyValue]
    last: int


class Outbox:
    """Records on their way: collected in order, sent in batches a partition, awaited until acknowledged.

    `last_alone`: the last record of a partition is a batch of its own. The embedded broker tells as a topic's end the
    first offset of its last batch, plus one; a table restored up to there must not lack the rest of a batch.
    """

    def __init__(self, *, last_alone: bool = False) -> None:
        self._last_alone = last_alone
        self._records: defaultdict[tuple[str, int], list[KeyValue]] = defaultdict(list)

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Add a record at the end of what goes to this partition of this topic."""
        self._records[topic, partition].append((key, value))

    async def deliver(self, app: faust.App) -> dict[tuple[str, int], Delivered]:
        """Send all and wait for the acknowledgements; what was sent to each partition. Raises where one is refused."""
        records, self._records = self._records, defaultdict(list)
        producer = (await app.maybe_start_producer())._ensure_producer()  # noqa: SLF001 - aiokafka's, for whole batches
        delivered = await asyncio.gather(*(self._send(producer, *tp, rows) for tp, rows in records.items()))
        return dict(zip(records, delivered, strict=True))

    async def _send(self, producer: Any, topic: str, partition: int, rows: list[KeyValue]) -> Delivered:
        acknowledgements = []
        batch = producer.create_batch()
        last = 0  # records in the batch sent last
        for i, (key, value) in enumerate(rows, start=1):
            alone = self._last_alone and i == len(rows) > 1
            if alone or batch.append(key=key, value=value, timestamp=None) is None:
                acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
                batch, last = producer.create_batch(), 0
                batch.append(key=key, value=value, timestamp=None)
            last += 1
        acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
        metadata = await asyncio.gather(*acknowledgements)
        return Delivered(rows, int(metadata[-1].offset) + last - 1)
