"""Batches of records for a Faust agent, acknowledged when they are worked off and never before.

Faust's `take_events` acknowledges a batch in a `finally`, also where its handler failed, and counts what it skips
during a rebalance as acknowledged. Here the agent takes records from its channel itself: a record is acknowledged
after the work on it returned, what is skipped is not acknowledged and is read again, and a failure ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from streams.faust_runtime.app import PlatformApp, die
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

_PAUSE_S = 0.001  # for the fetcher to bring more

WorkOn = Callable[[Sequence[Any]], Awaitable[None]]


def subscribe(app: PlatformApp, settings: Settings, topics: Sequence[Topic], work: WorkOn) -> Any:
    """Make the one agent of `app`: it hands batches of events of all `topics` to `work`, one batch at a time."""
    names = [topic.full(settings) for topic in topics]
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    source = app.topic(*names, **raw, allow_empty=True)  # anything else would decode, and end the agent at garbage

    async def agent(stream: Any) -> None:
        async for events in batches(app, stream, settings.take_max, settings.take_within_s):
            await finish_work(work, events)
            for event in events:
                event.ack()

    return app.agent(source, concurrency=1, name="agent")(agent)


async def batches(app: PlatformApp, stream: Any, most: int, within_s: float) -> AsyncIterator[list[Any]]:
    """Lists of at most `most` events, of what comes within `within_s` of the first; all of this assignment."""
    loop = asyncio.get_running_loop()
    queue = aiter(stream.channel).queue
    while not stream.should_stop:
        try:
            events = _mine(app, await queue.get())
        except StopAsyncIteration:  # how Faust tells a channel's reader to stop
            return
        until = loop.time() + within_s
        while len(events) < most:
            if not queue.empty():
                events += _mine(app, queue.get_nowait())
            elif loop.time() < until:
                await asyncio.sleep(_PAUSE_S)
            else:
                break
        if events:
            for tp in {event.message.tp for event in events}:
                app.monitor.stream_inbound_time[tp] = loop.time()
            yield events


def _mine(app: PlatformApp, event: Any) -> list[Any]:
    """The event, now waited for at a rebalance; or nothing, where it was fetched under an older assignment."""
    message = event.message
    if message.generation_id != app.consumer_generation_id or not app.flow_control.is_active():
        return []
    message.tracked = True
    app.consumer.track_message(message)
    return [event]


async def finish_work(work: WorkOn, events: Sequence[Any]) -> None:
    """Do `work` on a batch to its end, also when the worker is being stopped meanwhile; where it fails, `die`."""
    task = asyncio.ensure_future(work(events))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if task.cancelled() or task.exception() is not None:
            die(f"batch of {len(events)} records not worked off at stop")
        raise
    except Exception as error:
        log.exception("batch of %d records failed", len(events))
        die(f"{type(error).__name__}: {error}")
