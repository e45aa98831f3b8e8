"""Batches of records for a Faust agent, acknowledged after they are processed and never before.

Faust's `take_events` acknowledges a batch in a `finally`, even if its handler failed, and counts records that it skips
during a rebalance as acknowledged: both are lost. Here the agent takes records from its channel itself. A record is
acknowledged after the work on it returned, a skipped record is not acknowledged and is read again, and a failure ends
the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import faust

from streams.faust_runtime.app import PlatformApp, exit_without_commit
from streams.faust_runtime.types import FaustEvent, Stream
from streams.kafka.message import Message
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

_PAUSE_S = 0.001  # between two looks at the queue
_QUIET_S = 0.004  # without a further event: the rest of the fetch would have arrived, and the next fetch may take long


def subscribe(
    app: PlatformApp, settings: Settings, topics: Sequence[Topic], process: Callable[[list[Message]], Awaitable[None]]
) -> faust.Agent:
    """Create the one agent of `app`: it calls `process` with batches of all `topics`, one batch at a time."""
    names = [topic.full(settings) for topic in topics]
    # raw bytes: with any other type Faust would decode, and end the agent at a value that it cannot decode
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    source = app.topic(*names, **raw, allow_empty=True)

    async def agent(stream: Stream) -> None:
        async for events, messages in batches(app, stream, settings):
            await finish_or_exit(process(messages), len(messages))
            for event in events:
                event.ack()

    return app.agent(source, concurrency=1, name="agent")(agent)


async def batches(
    app: PlatformApp, stream: Stream, settings: Settings
) -> AsyncIterator[tuple[list[FaustEvent], list[Message]]]:
    """Yield batches of events that come within a while of the first, all of this assignment, and their records.

    A batch ends with the envelope in which `settings.take_max` records are reached, or once no further event comes: in
    lockstep an epoch passes the workers three times, and would wait out `settings.take_within_s` each time.
    """
    loop = asyncio.get_running_loop()
    queue = aiter(stream.channel).queue
    while not stream.should_stop:
        try:
            events = _tracked(app, await queue.get())
        except StopAsyncIteration:  # raised by Faust to stop a channel's reader
            return
        messages = [message for event in events for message in _messages(event, settings)]
        came = loop.time()
        until = came + settings.take_within_s
        while len(messages) < settings.take_max:
            if not queue.empty():
                for event in _tracked(app, queue.get_nowait()):
                    events.append(event)
                    messages += _messages(event, settings)
                came = loop.time()
            elif loop.time() < min(until, came + _QUIET_S):
                await asyncio.sleep(_PAUSE_S)
            else:
                break
        if events:
            for tp in {event.message.tp for event in events}:
                app.monitor.stream_inbound_time[tp] = loop.time()
            yield events, messages


def _tracked(app: PlatformApp, event: FaustEvent) -> list[FaustEvent]:
    """Return the event, for which a rebalance waits from now on; none if it was fetched under an older assignment."""
    message = event.message
    if message.generation_id != app.consumer_generation_id or not app.flow_control.is_active():
        return []
    message.tracked = True
    app.consumer.track_message(message)
    return [event]


def _messages(event: FaustEvent, settings: Settings) -> list[Message]:
    """Return the record in an event, or those in its envelope."""
    raw = event.message
    topic = raw.topic.removeprefix(f"{settings.run}-")
    return Message.received(topic, raw.partition, raw.offset, raw.key, raw.value, raw.headers)


async def finish_or_exit(work: Awaitable[None], records: int) -> None:
    """Await `work` to its end, even if the worker is being stopped; end the process if it fails."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if task.cancelled() or task.exception() is not None:
            exit_without_commit(f"batch of {records} records not processed at stop")
        raise
    except Exception as error:
        log.exception("batch of %d records failed", records)
        exit_without_commit(f"{type(error).__name__}: {error}")
