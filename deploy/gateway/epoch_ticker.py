"""Epoch markers for live events: at fixed intervals an epoch ends and the next one begins, in every partition.

Of several gateways the one with the lease writes the markers. An epoch's number is that of its interval since the run
was created, so a gateway that takes over needs no state; an interval without events is an empty epoch.
The event time of a marker is the boundary between the two intervals: no event is later than its arrival.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from deploy.gateway.ingest import Ingest, UnacknowledgedError
from streams.coordinator.lease import Lease
from streams.process.log_throttle import LogThrottle
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.records import EpochBegin, EpochEnd

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())

ROLE = "epoch-ticker"


class EpochTicker:
    """Writes the markers of a run whose epochs take `seconds` and began at `created_ms` of the wall clock."""

    def __init__(self, ingest: Ingest, lease: Lease, seconds: float, created_ms: int, clock: Callable[[], int]) -> None:
        self._ingest, self._lease, self._clock = ingest, lease, clock
        self._interval_ms, self._created_ms = int(seconds * 1000), created_ms
        self._begun: int | None = None  # the epoch that this ticker has begun

    async def run(self) -> None:
        """Write markers until cancelled; through outages of broker and database."""
        while True:
            try:
                await self.tick()
            except (UnacknowledgedError, *DATABASE_UNAVAILABLE) as error:
                log.warning("epoch markers: %s; trying again", error)
            await asyncio.sleep(min(self._interval_ms / 4000, 1.0))

    async def tick(self) -> None:
        """Write the markers that are due, if this ticker has the lease."""
        if not await asyncio.to_thread(self._lease.acquire):
            self._begun = None
            return
        epoch = (self._clock() - self._created_ms) // self._interval_ms
        if epoch == self._begun:
            return
        boundary = self._created_ms + epoch * self._interval_ms
        for partition in range(self._ingest.partitions):
            if epoch:
                await self._ingest.send(partition, None, EpochEnd(epoch - 1, boundary))
            await self._ingest.send(partition, None, EpochBegin(epoch, None, boundary))
        self._begun = epoch
