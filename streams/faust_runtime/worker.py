"""What both Faust workers do with a batch: have its releases, work it off, make it durable.

In this order: outputs sent and acknowledged, state written and its changelog acknowledged, then (by returning) the
offset. A worker is a function from what was received, and the table's rows, to a `Work`.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from msgspec import Struct

from models.data.item_statistics import ItemStatistics
from streams.faust_runtime.app import PlatformApp, die, new_app
from streams.faust_runtime.batches import subscribe, work_off
from streams.faust_runtime.lag_monitor import WorkerWatch
from streams.faust_runtime.outbox import Outbox
from streams.faust_runtime.state_table import StateTable, state_table
from streams.kafka.message import Message
from streams.process import telemetry
from streams.process.clock_and_signals import wall_ms
from streams.process.health import HEALTH
from streams.releases.reader import ReleaseReader
from streams.releases.release import Release
from streams.settings import Settings
from streams.topics import Topic

_COLLECT_AFTER = 50_000  # objects: a batch makes as many and drops them, with hardly a cycle among them
RELEASE_TIMEOUT_S = 600.0  # a release that a record names is published already

Releases = Callable[[int | None], Release]
Standings = Callable[[int | None], ItemStatistics]


class Work(Protocol):
    """A batch: worked off by `run`; then `records` are to be sent, `rows` to be written, in this order."""

    fatal: str  # why the process must end after this batch without acknowledging it; empty where all is well

    def needs(self) -> Iterable[int | None]:
        """The releases that `run` asks for; None stands for the newest."""

    def standings(self) -> Iterable[int | None]:
        """The epochs after which `run` asks how items stood; None stands for the newest that is known."""

    def run(self, releases: Releases, standings: Standings) -> None:
        """Work the batch off."""

    def records(self) -> Iterable[tuple[str, int, bytes, bytes]]:
        """What is to be sent: topic, partition, key, value."""

    def rows(self) -> Iterable[tuple[bytes, Struct | None]]:
        """What is to be written; None deletes."""

    def count(self, now_ms: int) -> None:
        """Tell the metrics what was done; `now_ms` is when it was durable."""


class Start(Protocol):
    """Begins a batch: what was received, the table's rows, how often they were assigned anew, the wall clock."""

    def __call__(self, received: Sequence[Message], rows: Mapping[bytes, bytes], assigned: int, wall: int) -> Work:
        """Return the batch's work."""


class Worker:
    """The Faust app of a role with its one agent and its one table."""

    def __init__(
        self,
        settings: Settings,
        role: str,
        sources: Sequence[Topic],
        locate: Callable[[bytes], int],
        start: Start,
        reader: ReleaseReader,
        clock: Callable[[], int] = wall_ms,
    ) -> None:
        self._settings, self._role, self._start, self._reader, self._clock = settings, role, start, reader, clock
        self.app: PlatformApp = new_app(settings, role)
        self.table: StateTable = state_table(self.app, settings, "state", locate)
        self._one_at_a_time = asyncio.Lock()
        self._sources = sources
        subscribe(self.app, settings, sources, self._take)
        self.app.before = self._before

    def _before(self) -> None:
        torch.set_num_threads(1)
        gc.freeze()  # what is loaded stays: a collection need not look at it
        gc.set_threshold(_COLLECT_AFTER, 20, 100)
        telemetry.serve(self._settings)
        self._reader.start()
        WorkerWatch(self._settings, self._role, self.app, self._reader, self._sources).start()

    async def _take(self, events: Sequence[Any]) -> None:
        await self.work([Message.of(event, self._settings) for event in events])

    async def idle(self) -> None:
        """Work off a batch of nothing, for what time alone brings; never while the table is being restored."""
        if not self.app.rebalancing:
            await work_off(self.work, [])

    async def work(self, received: Sequence[Message]) -> None:
        """Work off what was received; at return it is durable."""
        async with self._one_at_a_time:
            began = time.perf_counter()
            work = self._start(received, self.table.data, self.table.assigned, self._clock())
            with HEALTH.busy():  # waiting for the coordinator is not being stuck
                releases = {version: await self._release(version) for version in work.needs()}
                standings = {epoch: await self._standing(epoch) for epoch in work.standings()}
            newest = releases.get(None)
            if newest is not None:
                releases.setdefault(newest.manifest.version, newest)
            work.run(releases.__getitem__, standings.__getitem__)
            await self._finish(work)
            if work.fatal:
                die(work.fatal)
            work.count(self._clock())
            telemetry.BATCH_SECONDS.labels(self._role).observe(time.perf_counter() - began)

    async def _release(self, version: int | None) -> Release:
        """A release; heartbeats go on while it is waited for. None: the newest, as it is now."""
        if version is not None:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, self._reader.get, version, RELEASE_TIMEOUT_S)
        while (newest := self._reader.newest()) is None:  # noqa: ASYNC110 - a thread stages it
            await asyncio.sleep(0.05)
        return newest

    async def _standing(self, epoch: int | None) -> ItemStatistics:
        if epoch is None:
            return self._reader.newest_item_statistics()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._reader.item_statistics, epoch, RELEASE_TIMEOUT_S)

    async def _finish(self, work: Work) -> None:
        outbox = Outbox()
        for topic, partition, key, value in work.records():
            outbox.put(topic, partition, key, value)
        await outbox.deliver(self.app)
        for key, row in work.rows():
            self.table.write(key, row)
        await self.table.durable()
