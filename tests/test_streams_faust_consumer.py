"""The cures for Faust's consumer, one by one: each test fails if records would be lost without its cure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.faust_runtime.app import new_app
from streams.faust_runtime.consumer import HeldConsumer, PromptThread
from streams.settings import Settings

EVENTS, OTHERS, CHANGELOG = TP("events", 0), TP("events", 1), TP("state-changelog", 0)


class Broker:
    """aiokafka's consumer as a thread sees it: a generation, an assignment, and the seeks."""

    def __init__(self) -> None:
        self._coordinator = SimpleNamespace(generation=3)
        self.assigned = {EVENTS, CHANGELOG}
        self.seeks: list[tuple[TP, int]] = []

    def assignment(self) -> set[TP]:
        return self.assigned

    def seek(self, tp: TP, offset: int) -> None:
        self.seeks.append((tp, offset))


def records(*offsets: int) -> list[Any]:
    return [SimpleNamespace(offset=offset) for offset in offsets]


def fetch(monkeypatch: pytest.MonkeyPatch, broker: Broker, active: set[TP], faust: Any) -> dict[TP, list[Any]]:
    """Return a fetch of `active`, with `faust` in place of Faust's own part."""
    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", faust)
    thread = PromptThread.__new__(PromptThread)
    found: dict[TP, list[Any]] = asyncio.run(thread._fetch_records(broker, active, timeout=1.0, max_records=10))
    return found


def test_a_fetch_that_waits_is_not_widened_when_partitions_are_paused_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    active, seen = {CHANGELOG}, []

    async def faust(_: Any, __: Any, partitions: Iterable[TP], **___: Any) -> dict[TP, list[Any]]:
        active.clear()  # the pause: aiokafka takes an empty set for all partitions
        seen.append(set(partitions))
        return {}

    fetch(monkeypatch, Broker(), active, faust)
    assert seen == [{CHANGELOG}]


def test_nothing_is_fetched_if_no_partition_is_active(monkeypatch: pytest.MonkeyPatch) -> None:
    async def faust(*_: Any, **__: Any) -> dict[TP, list[Any]]:
        return {EVENTS: records(0, 1)}

    assert fetch(monkeypatch, Broker(), set(), faust) == {}


def test_a_fetch_over_a_rebalance_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker()

    async def faust(*_: Any, **__: Any) -> dict[TP, list[Any]]:
        broker._coordinator.generation += 1
        return {EVENTS: records(5, 6), OTHERS: records(9)}  # the others are another worker's by now

    assert fetch(monkeypatch, broker, {EVENTS, OTHERS}, faust) == {}
    assert broker.seeks == [(EVENTS, 5)]


def test_a_fetch_without_a_rebalance_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, found = Broker(), {EVENTS: records(5, 6)}

    async def faust(*_: Any, **__: Any) -> dict[TP, list[Any]]:
        return found

    assert fetch(monkeypatch, broker, {EVENTS}, faust) == found
    assert broker.seeks == []


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> HeldConsumer:
    """Return a consumer whose methods of Faust are replaced; `passed` lists the partitions that were resumed."""
    held = HeldConsumer.__new__(HeldConsumer)
    held._held = set()
    passed: list[set[TP]] = []
    monkeypatch.setattr(driver.Consumer, "_is_changelog_tp", lambda _, tp: tp == CHANGELOG)
    monkeypatch.setattr(driver.Consumer, "resume_partitions", lambda _, tps: passed.append(set(tps)))
    monkeypatch.setattr(driver.Consumer, "pause_partitions", lambda *_: None)
    monkeypatch.setattr(driver.Consumer, "resume_flow", lambda _: passed.append(set()))
    held.passed = passed
    return held


def test_source_partitions_are_held_until_the_flow_is_resumed(consumer: HeldConsumer) -> None:
    consumer.resume_partitions({EVENTS, CHANGELOG})
    assert consumer.passed == [{CHANGELOG}]
    consumer.resume_flow()
    assert consumer.passed == [{CHANGELOG}, set(), {EVENTS}]  # the flow first
    consumer.resume_flow()
    assert consumer.passed[3:] == [set()]


def test_partitions_that_are_paused_again_are_no_longer_held(consumer: HeldConsumer) -> None:
    consumer.resume_partitions({EVENTS, OTHERS})
    consumer.pause_partitions({EVENTS})
    consumer.resume_flow()
    assert consumer.passed[-1] == {OTHERS}


def test_partitions_without_a_commit_are_read_from_their_beginning(
    consumer: HeldConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[TP] = []

    async def committed(_: Any) -> dict[TP, int | None]:
        return {EVENTS: None, OTHERS: 7, CHANGELOG: None}

    async def begin(*tps: TP) -> None:
        sent.extend(tps)

    monkeypatch.setattr(driver.Consumer, "seek_to_committed", committed)
    consumer._thread = SimpleNamespace(seek_to_beginning=begin)
    assert asyncio.run(consumer.seek_to_committed()) == {EVENTS: None, OTHERS: 7, CHANGELOG: None}
    assert sent == [EVENTS]


async def fails() -> None:
    raise AssertionError("is only needed if the first has to wait")


def test_what_needs_no_waiting_is_done_without_a_task(consumer: HeldConsumer) -> None:
    async def at_once() -> int:
        return 7

    done = asyncio.run(consumer.wait_first(at_once(), fails()))
    assert (done.results, done.stopped) == ([7], False)


def test_what_has_begun_to_wait_is_continued_by_faust(consumer: HeldConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def faust(_: Any, first: Any, other: Any, **__: Any) -> list[Any]:
        other.close()
        return [await first]

    async def begun() -> list[str]:
        seen = ["begun"]
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        except TimeoutError:
            seen.append("timed out")
        return seen

    monkeypatch.setattr(driver.Consumer, "wait_first", faust)
    assert asyncio.run(consumer.wait_first(begun(), fails())) == [["begun", "timed out"]]


def test_fetches_wait_as_long_as_the_settings_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_create_worker_consumer", lambda *_: SimpleNamespace())
    thread = PromptThread.__new__(PromptThread)
    thread.app = new_app(Settings(fetch_wait_ms=70, state_dir=tmp_path), "device")
    assert thread._create_worker_consumer(object())._fetch_max_wait_ms == 70
