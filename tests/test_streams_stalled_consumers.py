"""Every reader of Kafka replaces a consumer that delivers nothing although records are pending."""

from __future__ import annotations

import threading
import time
from collections import Counter
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
from streams.kafka import clients, topic_admin
from streams.kafka.partition_consumer import PartitionConsumer
from streams.learner import learner
from streams.recorder import recorder
from streams.records import EndOfLog, EpochEnd
from streams.releases import candidates
from streams.releases.reader import ReleaseReader
from streams.settings import Settings
from streams.topics import FAST_EXAMPLES
from tests.support.recorder import random_run


class Stalled:
    """A consumer that delivers nothing."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def poll(self, seconds: float) -> None:
        time.sleep(seconds)

    def consume(self, _: int, seconds: float) -> list[Any]:
        time.sleep(seconds)
        return []


class Consumers:
    """Opens consumers and counts them by role: the first of each is stalled, and that is detected soon."""

    def __init__(self) -> None:
        self.opened = Counter[str]()

    def __call__(self, settings: Settings, role: str, start: Any, **options: Any) -> PartitionConsumer:
        made: Any = clients.consumer(settings, role)
        self.opened[role] += 1
        made = Stalled(made) if self.opened[role] == 1 else made
        return PartitionConsumer(settings, role, start, **options, consumer=made, stalled_after_s=0.5)


@pytest.fixture
def consumers() -> Consumers:
    return Consumers()


@pytest.fixture
def on_kafka(broker_settings: Settings) -> Settings:
    settings = broker_settings.model_copy(update={"dim": 4, "partitions": 2})
    topic_admin.create(settings)
    return settings


@contextmanager
def running(part: Any, settings: Settings, *more: Consumers) -> Iterator[None]:
    """A processor in a thread, with an engine of its own."""
    stop, engine = threading.Event(), connect(settings.database.get_secret_value())
    thread = threading.Thread(target=part.run, args=(settings, engine, stop, *more))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        engine.dispose()
    assert not thread.is_alive()


def producer(settings: Settings) -> Producer:
    return clients.producer(settings, "test")


def test_the_barrier_and_the_release_reader_replace_it(on_kafka: Settings, consumers: Consumers) -> None:
    reader = ReleaseReader(on_kafka, "device", patience_s=0.1, open_consumer=consumers)
    reader.start()
    with running(coordinator, on_kafka), lockstep(on_kafka, open_consumer=consumers) as decide:
        assert decide(BEFORE_FIRST) == 0
        assert reader.get(0, 30).manifest.version == 0
        wait_for(lambda: consumers.opened["device-releases"] > 1, "another consumer of releases")
    reader.close()
    assert consumers.opened["replay-barrier"] > 1


def test_the_learner_replaces_it(on_kafka: Settings, consumers: Consumers) -> None:
    sender, engine = producer(on_kafka), connect(on_kafka.database.get_secret_value())
    for partition in range(2):
        sender.produce(FAST_EXAMPLES.full(on_kafka), encode(EpochEnd(0, 0)), partition=partition)
        sender.produce(FAST_EXAMPLES.full(on_kafka), encode(EndOfLog(0, 0, 0)), partition=partition)
    assert not sender.flush(30)

    def proposed() -> bool:
        with engine.connect() as connection:
            return bool(candidates.read(connection, on_kafka.run, schema.proposals.c.epoch == 0))

    with running(coordinator, on_kafka), running(learner, on_kafka, consumers):
        wait_for(proposed, "what the learner proposes at the end of epoch 0")
    assert consumers.opened["learner"] > 1
    engine.dispose()


def test_the_recorder_replaces_it(on_kafka: Settings, consumers: Consumers) -> None:
    sender, engine = producer(on_kafka), connect(on_kafka.database.get_secret_value())
    for (topic, partition), records in random_run(on_kafka, epochs=1).logs.items():
        for key, value in records:
            sender.produce(f"{on_kafka.run}-{topic}", value, key, partition)
    assert not sender.flush(30)

    def recorded() -> bool:
        with engine.connect() as connection:
            return run_state.recorded(connection, on_kafka.run) == (0, True)

    with running(recorder, on_kafka, consumers):
        wait_for(recorded, "the recorder to have the whole run")
    assert consumers.opened["recorder"] > 1
    engine.dispose()
