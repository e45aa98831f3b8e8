"""Device and cloud as processes on a broker: they end as the simulation without one does, garbage or not."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from streams import kafka
from streams.records import DeadLetter, DeviceBatch, Outcome, OutcomeEvent, Reader
from streams.settings import Settings
from streams.topics import CLOUD_DOWNLINK, DEAD_LETTERS, DEVICE_EVENTS, DEVICE_UPLINK
from tests.simulation import SMALL, outcomes
from tests.test_workers_simulated import EPOCHS, IN_FORCE, RELEASES, log, run
from tests.worker_world import Feed, Log, Process, publish, table, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@dataclass
class Stage:
    """A run on a broker: its settings, its events, and what they must lead to."""

    settings: Settings
    feed: Feed
    epochs: list[list[DeviceBatch]]
    calm: Any

    def check(self) -> None:
        """Outcomes and both tables are what the simulation without a broker and without crashes gives."""
        assert self.came() == plain(outcomes(self.calm.topics))
        assert table(self.settings, "device") == self.calm.device.rows
        assert table(self.settings, "cloud") == self.calm.cloud.rows

    def came(self) -> dict[tuple[str, int], Outcome]:
        """The outcomes that came out, repeats dropped; a repeat must be equal but for the wall clock."""
        reader: Reader[Any] = Reader(OutcomeEvent)
        found: dict[tuple[str, int], Outcome] = {}
        for _, _, value in self.feed.outcomes.poll():
            if isinstance(record := reader.decode(value), Outcome):
                (key, outcome), *_ = plain({(record.user, record.seq): record}).items()
                assert found.setdefault(key, outcome) == outcome
        return found


def plain(found: dict[tuple[str, int], Outcome]) -> dict[tuple[str, int], Outcome]:
    return {key: msgspec.structs.replace(o, asked_wall=0, answered_wall=0) for key, o in found.items()}


@pytest.fixture
def stage(broker_settings: Settings, request: pytest.FixtureRequest) -> Iterator[Stage]:
    settings = SMALL.model_copy(
        update={name: getattr(broker_settings, name) for name in ("run", "brokers", "database", "state_dir")}
    )
    publish(settings, RELEASES.values())
    epochs = log(random.Random(request.node.name), users=30, units=1200)
    feed = Feed(settings)
    yield Stage(settings, feed, epochs, run(epochs, 1, 0.0))
    feed.outcomes.close()


def test_a_run_ends_as_the_simulation_does(stage: Stage) -> None:
    with Process(stage.settings, "device"), Process(stage.settings, "cloud"):
        for epoch, batches in enumerate(stage.epochs):
            stage.feed.epoch(epoch, IN_FORCE[epoch], batches)
        stage.feed.end(EPOCHS)
    stage.check()


def test_garbage_on_every_topic_goes_to_dead_letters_and_the_run_goes_on(stage: Stage) -> None:
    producer = kafka.producer(stage.settings, "test-garbage")
    topics = (DEVICE_EVENTS, DEVICE_UPLINK, CLOUD_DOWNLINK)
    for i, topic in enumerate(topics):
        for value in (b"\xff\xfe", b"", b"\x01\x90", bytes(range(200))):
            producer.produce(topic.full(stage.settings), key=b"someone", value=value, partition=i % 2)
    assert not producer.flush(30)
    letters = Log(stage.settings, DEAD_LETTERS, DeadLetter)
    with Process(stage.settings, "device"), Process(stage.settings, "cloud"):
        for epoch, batches in enumerate(stage.epochs):
            stage.feed.epoch(epoch, IN_FORCE[epoch], batches)
        stage.feed.end(EPOCHS)
        letters.until(lambda found: len(found) >= 12, "the dead letters")
    assert sorted({letter.topic for letter in letters.records}) == sorted(topic.name for topic in topics)
    assert all(letter.reason for letter in letters.records)
    letters.close()
    stage.check()


def test_a_worker_that_is_told_to_stop_ends_cleanly(stage: Stage) -> None:
    with Process(stage.settings, "device") as worker:
        worker.until_ready()
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0
        wait_for(lambda: not worker.alive(), "the worker to end")
