"""Faust's consumer without the ways in which it loses records at a start or a rebalance.

Seen in Faust 0.15.3 with aiokafka, each enough to lose records for good:

- After a recovery, source partitions are resumed before the seek to the committed offsets and before the queues are
  cleared; what is fetched in between is dropped. `HeldConsumer` holds them until the flow is resumed.
- The seek passes over partitions without a committed offset, so what was taken from one and dropped is never read
  again: `HeldConsumer` sends those to their beginning.
- A fetch that waits is given the very set of active partitions that pausing empties, and an empty one means all: it
  then takes records of paused partitions, which are dropped. `PromptThread` gives it a copy.
- A fetch that waits over a rebalance takes records of the new assignment, which are dropped: `PromptThread` undoes it.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Generator, Iterable, Mapping
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.services import WaitResults

_FETCH_WAIT_MS = 20


class PromptThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Asks the broker again soon: Faust waits 1.5 s for a fetch, and some brokers answer no earlier than that."""

    def _create_worker_consumer(self, *args: Any, **kwargs: Any) -> Any:
        consumer = super()._create_worker_consumer(*args, **kwargs)
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # noqa: SLF001 - Faust has no setting for it
        return consumer

    async def _fetch_records(self, consumer: Any, active_partitions: set[TP], **limits: Any) -> dict[Any, Any]:
        """Take records of the partitions that are active now, or none where a rebalance came in between."""
        wanted = frozenset(active_partitions)
        if not wanted:
            return {}
        coordinator = consumer._coordinator  # noqa: SLF001 - the generation is nowhere else
        generation = coordinator.generation
        records: dict[Any, Any] = await super()._fetch_records(consumer, wanted, **limits)
        if coordinator.generation == generation:
            return records
        for tp, taken in records.items():
            if tp in consumer.assignment():
                consumer.seek(tp, taken[0].offset)
        return {}


class HeldConsumer(driver.Consumer):  # type: ignore[misc]
    """Holds source partitions that are resumed until the flow is; changelog partitions pass at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._held: set[TP] = set()
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> PromptThread:
        return PromptThread(self, loop=self.loop, beacon=self.beacon)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume changelog partitions, hold the others."""
        changelogs = {tp for tp in tps if self._is_changelog_tp(tp)}
        self._held |= set(tps) - changelogs
        super().resume_partitions(changelogs)

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Pause `tps` and hold none of them any more."""
        self._held -= set(tps)
        super().pause_partitions(tps)

    async def wait_first(self, *awaited: Any, timeout: Any = None) -> Any:  # noqa: ASYNC109 - Faust calls it so
        """Wait as Faust does, without the tasks where a message can be handed on at once, as nearly all can."""
        first = awaited[0]
        if len(awaited) < 2 or not inspect.iscoroutine(first):
            return await super().wait_first(*awaited, timeout=timeout)
        try:
            waits_for = first.send(None)
        except StopIteration as end:
            for other in awaited[1:]:
                other.close()
            return WaitResults([first], [end.value], stopped=False)
        return await super().wait_first(_continued(first, waits_for), *awaited[1:], timeout=timeout)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets, or to the beginning where nothing was committed yet."""
        committed: Mapping[TP, int] = await super().seek_to_committed()
        if new := [tp for tp, offset in committed.items() if not offset and not self._is_changelog_tp(tp)]:
            await self._thread.seek_to_beginning(*new)
        return committed

    def resume_flow(self) -> None:
        """Resume the flow, and with it what was held: the seek is done and the queues are clear."""
        super().resume_flow()
        held, self._held = self._held, set()
        if held:
            super().resume_partitions(held)


async def _continued(coroutine: Any, waits_for: Any) -> Any:
    """The rest of a coroutine that was begun and waits for something."""
    return await _rest(coroutine, waits_for)


@types.coroutine
def _rest(coroutine: Any, waits_for: Any) -> Generator[Any, Any, Any]:
    while True:
        try:
            got = yield waits_for
        except BaseException as error:  # noqa: BLE001 - thrown into the coroutine that it was meant for
            send, value = coroutine.throw, error
        else:
            send, value = coroutine.send, got
        try:
            waits_for = send(value)
        except StopIteration as end:
            return end.value
