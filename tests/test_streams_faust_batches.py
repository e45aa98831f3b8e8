from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from streams.faust_runtime.batches import batches
from streams.settings import Settings


class Channel:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> Any:
        return await self.queue.get()


def event(offset: int) -> Any:
    record = {"topic": "local-events", "partition": 0, "offset": offset, "key": b"u", "value": b"v"}
    return SimpleNamespace(
        message=SimpleNamespace(**record, headers=None, tp=("local-events", 0), generation_id=1, tracked=False)
    )


def test_a_batch_does_not_wait_out_its_time_if_nothing_follows() -> None:
    app: Any = SimpleNamespace(
        consumer_generation_id=1,
        flow_control=SimpleNamespace(is_active=lambda: True),
        consumer=SimpleNamespace(track_message=lambda _: None),
        monitor=SimpleNamespace(stream_inbound_time={}),
    )

    async def first_batch() -> list[int]:
        stream: Any = SimpleNamespace(channel=Channel(), should_stop=False)
        for offset in range(3):
            stream.channel.queue.put_nowait(event(offset))
        events, messages = await anext(batches(app, stream, Settings(take_within_s=3600.0)))
        assert [each.message.offset for each in events] == [each.offset for each in messages]
        return [each.offset for each in messages]

    assert asyncio.run(asyncio.wait_for(first_batch(), 20)) == [0, 1, 2]
