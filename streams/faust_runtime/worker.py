"""The work of both Faust workers on a batch: get its releases, process it, make it durable.

The order: outputs sent and acknowledged, rows written and their changelog acknowledged, then (by returning) the offset.
A worker is a function from received messages and the table's rows to a `Work`.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch

from models.data.item_statistics import ItemStatistics
from streams.faust_runtime.app import PlatformApp, exit_without_commit, new_app
from streams.faust_runtime.batches import finish_or_exit, subscribe
from streams.faust_runtime.lag_monitor import LagMonitor
from streams.faust_runtime.outbox import Outbox
from streams.faust_runtime.state_table import StateTable, state_table
from streams.kafka.message import Message
from streams.kafka.tracing import tracing
from streams.process import telemetry
from streams.process.clock_and_signals import wall_ms
from streams.process.health import HEALTH
from streams.releases.reader import ReleaseReader
from streams.releases.release import Release
from streams.settings import Settings
from streams.state.pending_writes import PendingWrites
from streams.topics import Topic

_COLLECT_AFTER = 50_000  # objects: a batch creates as many and drops them, with hardly a cycle among them
_MEASURE_S = 10.0  # between two measurements of the state: 5 ms for 100,000 users
RELEASE_TIMEOUT_S = 600.0  # a release that a record names is published already

Releases = Callable[[int | None], Release]
StatisticsByEpoch = Callable[[int | None], ItemStatistics]


class Work(Protocol):
    """The work on one batch."""

    fatal: str  # the reason why the process must end without acknowledging this batch; empty if there is none

    def required_releases(self) -> Iterable[int | None]:
        """Return the releases that `process` asks for; None is the newest."""

    def required_item_statistics(self) -> Iterable[int | None]:
        """Return the epochs as of whose end `process` asks for item statistics; None is the newest known."""

    def process(self, releases: Releases, item_statistics: StatisticsByEpoch) -> PendingWrites:
        """Process the batch; return its output: what to send and to write."""

    def count(self, now_ms: int) -> None:
        """Add the batch to the metrics; `now_ms` is when it was durable."""


class Start(Protocol):
    """Begins a batch, given the table's rows, the number of the table's assignment and the wall clock."""

    def __call__(
        self, received: Sequence[Message], table: Mapping[bytes, bytes], assignment: int, wall: int, /
    ) -> Work:
        """Return the work on the batch."""


class Worker:
    """The Faust app of a role with its one agent and its one table."""

    def __init__(
        self,
        settings: Settings,
        role: str,
        sources: Sequence[Topic],
        partition_for_key: Callable[[bytes], int],
        start: Start,
        reader: ReleaseReader,
    ) -> None:
        self._settings, self._role, self._start, self._reader = settings, role, start, reader
        self._tracing = tracing(role, settings.run)
        self.app: PlatformApp = new_app(settings, role)
        self.table: StateTable = state_table(self.app, settings, "state", partition_for_key)
        self._one_at_a_time = asyncio.Lock()
        self._measured = -math.inf
        self._sources = sources
        subscribe(self.app, settings, sources, self.process)
        self.app.before_connect = self._before_connect

    def _before_connect(self) -> None:
        torch.set_num_threads(1)
        gc.freeze()  # objects loaded so far stay: a collection need not visit them
        gc.set_threshold(_COLLECT_AFTER, 20, 100)
        telemetry.serve(self._settings, self._role)
        self._reader.start()
        LagMonitor(self._settings, self._role, self.app, self._reader, self._sources).start()

    async def process_idle(self) -> None:
        """Process an empty batch, to expire overdue requests; not while the table is being restored."""
        if not self.app.rebalancing:
            await finish_or_exit(self.process([]), 0)

    async def process(self, received: Sequence[Message]) -> None:
        """Process received messages; at return the results are durable."""
        async with self._one_at_a_time:
            began = time.perf_counter()
            with self._tracing.batch(received) as traced:
                work = self._start(traced, self.table.data, self.table.assignment, wall_ms())
                with HEALTH.busy():  # waiting for the coordinator does not count as stuck
                    releases = {version: await self._release(version) for version in work.required_releases()}
                    wanted = work.required_item_statistics()
                    statistics = {epoch: await self._item_statistics(epoch) for epoch in wanted}
                newest = releases.get(None)
                if newest is not None:
                    releases.setdefault(newest.manifest.version, newest)
                await self._make_durable(work.process(releases.__getitem__, statistics.__getitem__))
            if work.fatal:
                exit_without_commit(work.fatal)
            work.count(wall_ms())
            telemetry.BATCH_SECONDS.labels(self._role).observe(time.perf_counter() - began)
            if began - self._measured > _MEASURE_S:
                self._measured = began
                telemetry.STATE_ROWS.labels(self._role).set(len(self.table.data))
                telemetry.STATE_BYTES.labels(self._role).set(sum(map(len, self.table.data.values())))

    async def _release(self, version: int | None) -> Release:
        """Return a release (None: the newest); heartbeats go on while the worker waits for it."""
        if version is not None:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, self._reader.get, version, RELEASE_TIMEOUT_S)
        while (newest := self._reader.newest()) is None:  # noqa: ASYNC110 - a thread stages it
            await asyncio.sleep(0.05)
        return newest

    async def _item_statistics(self, epoch: int | None) -> ItemStatistics:
        if epoch is None:
            return self._reader.newest_item_statistics()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._reader.item_statistics, epoch, RELEASE_TIMEOUT_S)

    async def _make_durable(self, writes: PendingWrites) -> None:
        outbox = Outbox()
        for record in writes.records():
            outbox.put(*record)
        await outbox.deliver(self.app)
        for key, row in writes.rows():
            self.table.write(key, row)
        await self.table.durable()
