"""Device and cloud as processes on a broker, killed and joined: nothing is lost, nothing applied twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from benchmarks.servers.releases import publish
from benchmarks.servers.worker import Process, wait_for
from streams.codec import Reader, encode
from streams.kafka import clients
from streams.records import DeadLetter, DeviceBatch, Outcome, OutcomeEvent
from streams.settings import Settings
from streams.topics import CLOUD_DOWNLINK, DEAD_LETTERS, DEVICE_EVENTS, DEVICE_UPLINK
from tests.support.simulation import SMALL, Simulation, decoded, outcomes, without_offsets
from tests.support.workers import EventSender, TopicReader, table
from tests.test_streams_workers_simulated import EPOCHS, IN_FORCE, RELEASES, event_log, simulate

pytestmark = pytest.mark.slow


@dataclass
class Stage:
    """A run on a broker: its settings, its events, and what they must lead to."""

    settings: Settings
    sender: EventSender
    epochs: list[list[DeviceBatch]]
    calm: Simulation

    def check(self) -> None:
        """Outcomes and both tables are what the simulation without a broker and without crashes gives."""
        assert self.outcomes() == plain(outcomes(self.calm.topics))
        assert without_offsets(table(self.settings, "device")) == without_offsets(self.calm.device.rows)
        assert decoded(table(self.settings, "cloud")) == decoded(self.calm.cloud.rows)

    def outcomes(self) -> dict[tuple[str, int], Outcome]:
        """Return the outcomes without repeats; a repeat must be equal except for the wall clock."""
        reader: Reader[Any] = Reader(OutcomeEvent)
        found: dict[tuple[str, int], Outcome] = {}
        for _, _, value in self.sender.outcomes.poll():
            if isinstance(record := reader.decode(value), Outcome):
                (key, outcome), *_ = plain({(record.user, record.seq): record}).items()
                assert found.setdefault(key, outcome) == outcome
        return found


def plain(found: dict[tuple[str, int], Outcome]) -> dict[tuple[str, int], Outcome]:
    return {key: msgspec.structs.replace(o, asked_wall=0, answered_wall=0) for key, o in found.items()}


KAFKA = pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.proof])
ON_BOTH = pytest.mark.parametrize("broker", ["embedded", KAFKA], indirect=True)
ON_KAFKA = pytest.mark.parametrize("broker", [KAFKA], indirect=True)  # the embedded broker is for demos, not for faults


@pytest.fixture(scope="module")
def log_and_simulation() -> tuple[list[list[DeviceBatch]], Simulation]:
    """Return the events of all tests here, and a simulation of them without a broker and without crashes."""
    epochs = event_log(random.Random(1), users=30, batches=600)
    return epochs, simulate(epochs, 1, 0.0)


@pytest.fixture
def stage(broker_settings: Settings, log_and_simulation: tuple[list[list[DeviceBatch]], Simulation]) -> Iterator[Stage]:
    settings = SMALL.model_copy(
        update={name: getattr(broker_settings, name) for name in ("run", "brokers", "database", "state_dir")}
    )
    publish(settings, RELEASES.values())
    sender = EventSender(settings)
    yield Stage(settings, sender, *log_and_simulation)
    sender.outcomes.close()


def test_a_run_ends_as_the_simulation_does(stage: Stage) -> None:
    with Process(stage.settings, "device"), Process(stage.settings, "cloud"):
        for epoch, batches in enumerate(stage.epochs):
            stage.sender.epoch(epoch, IN_FORCE[epoch], batches)
        stage.sender.end(EPOCHS)
    stage.check()


@ON_KAFKA
@pytest.mark.parametrize("role", ["device", "cloud"])
def test_killing_a_worker_again_and_again_changes_nothing(stage: Stage, role: str) -> None:
    last = killed_again_and_again(stage, role, stage.settings)
    assert not last.copied()


@ON_KAFKA
def test_a_worker_that_is_killed_starts_again_from_its_copy_and_that_changes_nothing(stage: Stage) -> None:
    last = killed_again_and_again(stage, "device", stage.settings.model_copy(update={"local_copy": True}))
    assert any(rows > 0 for rows in last.copied())


def killed_again_and_again(stage: Stage, role: str, settings: Settings) -> Process:
    """A run in which the worker of `role` is killed once an epoch; the last one."""
    chance = random.Random(role)
    other = "cloud" if role == "device" else "device"
    with Process(stage.settings, other), ExitStack() as victims:
        victim = [victims.enter_context(Process(settings, role))]

        def kill() -> None:
            victim[0].until_ready()
            time.sleep(chance.random() * 0.4)  # anywhere in its work: it is the moment that is drawn
            victim[0].send(signal.SIGKILL)
            victim[0] = victims.enter_context(Process(settings, role))

        for epoch, batches in enumerate(stage.epochs):
            stage.sender.epoch(epoch, IN_FORCE[epoch], batches, kill)
        stage.sender.end(EPOCHS)
    stage.check()
    return victim[0]


@ON_KAFKA
def test_a_worker_that_is_paused_while_its_partitions_move_and_goes_on_changes_nothing(stage: Stage) -> None:
    chance = random.Random("asleep")
    with ExitStack() as workers:
        workers.enter_context(Process(stage.settings, "cloud"))
        devices = [workers.enter_context(Process(stage.settings, "device")) for _ in range(2)]
        for device in devices:
            device.until_ready()

        def sleep(epoch: int) -> None:
            sleeper, other = devices[epoch % 2], devices[1 - epoch % 2]
            ready = other.times_ready()
            time.sleep(chance.random() * 0.3)  # anywhere in its work
            sleeper.send(signal.SIGSTOP)
            wait_for(lambda: other.times_ready() > ready, "the other worker to have all partitions")
            time.sleep(chance.random())
            sleeper.send(signal.SIGCONT)

        for epoch, batches in enumerate(stage.epochs):
            stage.sender.epoch(epoch, IN_FORCE[epoch], batches, lambda epoch=epoch: sleep(epoch))  # type: ignore[misc]
        stage.sender.end(EPOCHS)
    stage.check()


@ON_BOTH
def test_workers_that_join_and_leave_share_the_users_and_change_nothing(stage: Stage) -> None:
    with ExitStack() as workers:
        devices = [workers.enter_context(Process(stage.settings, "device"))]
        clouds = [workers.enter_context(Process(stage.settings, "cloud"))]

        def change(epoch: int) -> None:
            for processes, role in ((devices, "device"), (clouds, "cloud")):
                if epoch % 2 == 0:
                    processes.append(workers.enter_context(Process(stage.settings, role)))
                    processes[-1].until_ready()
                else:
                    processes.pop(0).send(signal.SIGTERM)

        for epoch, batches in enumerate(stage.epochs):
            stage.sender.epoch(epoch, IN_FORCE[epoch], batches, lambda epoch=epoch: change(epoch))  # type: ignore[misc]
        stage.sender.end(EPOCHS)
        shares = [process.times_ready() for process in (*devices, *clouds)]
    assert all(shares)
    stage.check()


@ON_BOTH
def test_garbage_on_every_topic_goes_to_dead_letters_and_the_run_goes_on(stage: Stage) -> None:
    producer = clients.producer(stage.settings, "test-garbage")
    topics = (DEVICE_EVENTS, DEVICE_UPLINK, CLOUD_DOWNLINK)
    for i, topic in enumerate(topics):
        for value in (b"\xff\xfe", b"", b"\x01\x90", bytes(range(200))):
            producer.produce(topic.full(stage.settings), key=b"someone", value=value, partition=i % 2)
    assert not producer.flush(30)
    letters = TopicReader(stage.settings, DEAD_LETTERS, DeadLetter)
    with Process(stage.settings, "device"), Process(stage.settings, "cloud"):
        for epoch, batches in enumerate(stage.epochs):
            stage.sender.epoch(epoch, IN_FORCE[epoch], batches)
        stage.sender.end(EPOCHS)
        letters.until(lambda found: len(found) >= 12, "the dead letters")
    assert sorted({letter.topic for letter in letters.records}) == sorted(topic.name for topic in topics)
    assert all(letter.reason for letter in letters.records)
    letters.close()
    stage.check()


@ON_BOTH
def test_a_gap_that_a_device_makes_is_refused_and_the_worker_goes_on(stage: Stage) -> None:
    first, *_ = stage.epochs[0]
    ahead = msgspec.structs.replace(first, seq=first.seq + 1000)
    stage.sender.send([ahead])
    letters = TopicReader(stage.settings, DEAD_LETTERS, DeadLetter)
    with Process(stage.settings, "device") as worker, Process(stage.settings, "cloud"):
        (letter,) = letters.until(bool, "the dead letter")
        assert "behind a missing or refused record" in letter.reason
        assert letter.value == encode(ahead)
        assert worker.alive()
        for epoch, batches in enumerate(stage.epochs):
            stage.sender.epoch(epoch, IN_FORCE[epoch], batches)
        stage.sender.end(EPOCHS)
    letters.close()
    stage.check()


@ON_BOTH
def test_a_worker_that_is_asked_to_stop_ends_cleanly(stage: Stage) -> None:
    with Process(stage.settings, "device") as worker:
        worker.until_ready()
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0
        wait_for(lambda: not worker.alive(), "the worker to end")
