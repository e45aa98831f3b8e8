"""Faust's consumer with a cure for each way in which it loses records at a start or a rebalance.

Seen in Faust 0.15.3 with aiokafka; each of these alone loses records for good:

- After a recovery Faust resumes source partitions before it seeks to the committed offsets and clears the queues. What
  is fetched in between is dropped. `HeldConsumer` holds source partitions back until the flow is resumed.
- The seek leaves out partitions without a committed offset. What was fetched from one and dropped is never read again.
  `HeldConsumer` seeks to the beginning of these partitions.
- A waiting fetch holds the very set of active partitions that a pause empties, and aiokafka takes an empty set for all
  partitions. The fetch then returns records of paused partitions, which are dropped. `PromptThread` passes a copy.
- A fetch that waits over a rebalance returns records of the new assignment, which are dropped as well. `PromptThread`
  seeks back to them.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Coroutine, Generator, Iterable, Mapping
from typing import TypeVar

from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.services import WaitResults

from streams.faust_runtime.types import FetchedRecord, FetchingConsumer

T = TypeVar("T")
Records = dict[TP, list[FetchedRecord]]


class PromptThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc] # Faust is not typed
    """The thread that fetches, with fetches that survive a pause or a rebalance while they wait."""

    def _create_worker_consumer(self, transport: object) -> FetchingConsumer:
        """Create the consumer with short fetches: Faust's wait 1.5 s, and some brokers answer no earlier than that."""
        consumer: FetchingConsumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.app.fetch_wait_ms  # noqa: SLF001 - Faust has no setting for it
        return consumer

    async def _fetch_records(
        self, consumer: FetchingConsumer, active_partitions: set[TP], **limits: float | None
    ) -> Records:
        """Fetch from the partitions that are active now; return none and seek back if a rebalance came in between."""
        wanted = frozenset(active_partitions)
        if not wanted:
            return {}
        coordinator = consumer._coordinator  # noqa: SLF001 - the generation is nowhere else
        generation = coordinator.generation
        records: Records = await super()._fetch_records(consumer, wanted, **limits)
        if coordinator.generation == generation:
            return records
        for tp, fetched in records.items():
            if tp in consumer.assignment():
                consumer.seek(tp, fetched[0].offset)
        return {}


class HeldConsumer(driver.Consumer):  # type: ignore[misc] # Faust is not typed
    """Holds source partitions back until the flow is resumed; changelog partitions are resumed at once."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._held: set[TP] = set()
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> PromptThread:
        return PromptThread(self, loop=self.loop, beacon=self.beacon)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume changelog partitions, hold the others back."""
        changelogs = {tp for tp in tps if self._is_changelog_tp(tp)}
        self._held |= set(tps) - changelogs
        super().resume_partitions(changelogs)

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Pause `tps`; none of them is held back any more."""
        self._held -= set(tps)
        super().pause_partitions(tps)

    async def wait_first(
        self,
        first: Awaitable[T],
        *others: Awaitable[T],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
    ) -> WaitResults:
        """Wait for the first that is done, without tasks if `first` needs no waiting.

        Faust calls this for every message it hands on, and nearly all can be handed on at once.
        """
        if not others or not inspect.iscoroutine(first):
            return await super().wait_first(first, *others, timeout=timeout)
        try:
            waits_for = first.send(None)
        except StopIteration as end:
            for other in others:
                if inspect.iscoroutine(other):
                    other.close()
            return WaitResults([first], [end.value], stopped=False)
        return await super().wait_first(_continue(first, waits_for), *others, timeout=timeout)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets, or to the beginning of a partition that has none."""
        committed: Mapping[TP, int] = await super().seek_to_committed()
        if new := [tp for tp, offset in committed.items() if not offset and not self._is_changelog_tp(tp)]:
            await self._thread.seek_to_beginning(*new)
        return committed

    def resume_flow(self) -> None:
        """Resume the flow and the partitions held back: the seek is done and the queues are clear."""
        super().resume_flow()
        held, self._held = self._held, set()
        if held:
            super().resume_partitions(held)


async def _continue(coroutine: Coroutine[object, object, T], waits_for: object) -> T:
    """Run the rest of a coroutine that has begun to wait for `waits_for`."""
    return await _rest(coroutine, waits_for)


@types.coroutine
def _rest(coroutine: Coroutine[object, object, T], waits_for: object) -> Generator[object, object, T]:
    while True:
        sent: object = None
        error: BaseException | None = None
        try:
            sent = yield waits_for
        except BaseException as thrown:  # noqa: BLE001 - thrown into the coroutine that it was meant for
            error = thrown
        try:
            waits_for = coroutine.send(sent) if error is None else coroutine.throw(error)
        except StopIteration as end:
            result: T = end.value
            return result
