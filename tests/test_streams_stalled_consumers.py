"""Whoever reads the bus replaces a consumer that gets nothing although records wait for it: as seen of librdkafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Producer

from benchmarks.servers.worker import wait_for
from replay.send.epoch_barrier import BEFORE_FIRST, lockstep
from streams.codec import encode
from streams.coordinator import coordinator
from streams.database import run_state, schema
from streams.database.engine import connect
from streams.kafka import clients, stall_detector, topic_admin
from streams.learner import learner
from streams.recorder import recorder
from streams.records import EndOfLog, EpochEnd
from streams.releases import candidates
from streams.releases.reader import ReleaseReader
from streams.settings import Settings
from streams.topics import FAST_EXAMPLES
from tests.support.recorder import a_run


class Deaf:
    """A consumer that is given nothing."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def poll(self, seconds: float) -> None:
        time.sleep(seconds)

    def consume(self, _: int, seconds: float) -> list[Any]:
        time.sleep(seconds)
        return []


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The consumers made, by role: the first of each is deaf, and it is noticed soon."""
    made: dict[str, list[Any]] = {}
    make = clients.consumer

    def consumer(settings: Settings, role: str, **extra: Any) -> Any:
        found = make(settings, role, **extra)
        made.setdefault(role, []).append(found)
        return Deaf(found) if len(made[role]) == 1 else found

    monkeypatch.setattr(clients, "consumer", consumer)
    monkeypatch.setattr(stall_detector, "SILENT_S", 0.5)
    return made


@pytest.fixture
def on_bus(broker_settings: Settings) -> Settings:
    settings = broker_settings.model_copy(update={"dim": 4, "partitions": 2})
    topic_admin.create(settings)
    return settings


@contextmanager
def running(part: Any, settings: Settings) -> Iterator[None]:
    """A processor in a thread, on an engine of its own where it takes one."""
    stop = threading.Event()
    arguments = (
        (settings, stop) if part is recorder else (settings, connect(settings.database.get_secret_value()), stop)
    )
    thread = threading.Thread(target=part.run, args=arguments)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def producer(settings: Settings) -> Producer:
    return clients.producer(settings, "test")


def test_the_barrier_and_the_reader_of_releases(on_bus: Settings, deaf: dict[str, list[Any]]) -> None:
    reader = ReleaseReader(on_bus, "device", patience_s=0.1)
    reader.start()
    with running(coordinator, on_bus), lockstep(on_bus) as decide:
        assert decide(BEFORE_FIRST) == 0
        assert reader.get(0, 30).manifest.version == 0
        wait_for(lambda: len(deaf["device-releases"]) > 1, "another consumer of releases")
    reader.close()
    assert len(deaf["replay-barrier"]) > 1


def test_the_learner(on_bus: Settings, deaf: dict[str, list[Any]]) -> None:
    sender, engine = producer(on_bus), connect(on_bus.database.get_secret_value())
    for partition in range(2):
        sender.produce(FAST_EXAMPLES.full(on_bus), encode(EpochEnd(0, 0)), partition=partition)
        sender.produce(FAST_EXAMPLES.full(on_bus), encode(EndOfLog(0, 0, 0)), partition=partition)
    assert not sender.flush(30)

    def proposed() -> bool:
        with engine.connect() as connection:
            return bool(candidates.read(connection, on_bus.run, schema.proposals.c.epoch == 0))

    with running(coordinator, on_bus), running(learner, on_bus):
        wait_for(proposed, "what the learner proposes at the end of epoch 0")
    assert len(deaf["learner"]) > 1
    engine.dispose()


def test_the_recorder(on_bus: Settings, deaf: dict[str, list[Any]]) -> None:
    sender, engine = producer(on_bus), connect(on_bus.database.get_secret_value())
    for (topic, partition), records in a_run(on_bus, epochs=1).logs.items():
        for key, value in records:
            sender.produce(f"{on_bus.run}-{topic}", value, key, partition)
    assert not sender.flush(30)

    def recorded() -> bool:
        with engine.connect() as connection:
            return run_state.recorded(connection, on_bus.run) == (0, True)

    with running(recorder, on_bus):
        wait_for(recorded, "the recorder to have the whole run")
    assert len(deaf["recorder"]) > 1
    engine.dispose()
