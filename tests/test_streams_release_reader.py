"""The reader on a broker: it goes on through torn, damaged and foreign records, and falls back on the tables."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from tenacity import retry, stop_after_delay, wait_fixed

from streams.codec import Reader, Tensor, encode
from streams.coordinator import coordinator
from streams.coordinator.coordinator import Coordinator
from streams.database import schema
from streams.kafka import clients, topic_admin
from streams.records import DeadLetter
from streams.release_records import EmbeddingRow
from streams.releases.reader import ReleaseReader
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, ITEM_EMBEDDINGS, MODEL_RELEASES, MODEL_WEIGHTS, Topic
from tests.support.releases import FakeProducer, RunHarness, changed, learnt, retrained, some_nets

PATIENCE_S = 30.0


@pytest.fixture
def harness(broker_settings: Settings) -> RunHarness:
    harness = RunHarness.of(broker_settings, dim=8, retrain_every=2)
    topic_admin.create(harness.settings)
    harness.producer = clients.producer(harness.settings, "coordinator")
    return harness


@contextmanager
def reading(harness: RunHarness, **options: float) -> Iterator[ReleaseReader]:
    reader = ReleaseReader(harness.settings, "device", **options)
    reader.start()
    try:
        yield reader
    finally:
        reader.close()


def eventually(check: Callable[[], None]) -> None:
    retry(stop=stop_after_delay(PATIENCE_S), wait=wait_fixed(0.02), reraise=True)(check)()


def decide(harness: RunHarness, acting: Coordinator, epoch: int, **proposed: bytes) -> None:
    harness.act(acting)
    harness.record(epoch)
    for kind in ("learner", "retrain"):
        harness.propose(kind, epoch, proposed.get(kind))
    harness.act(acting)


def test_releases_arrive_complete_by_version(harness: RunHarness) -> None:
    nets, catalogue = some_nets(harness.settings, 30, seed=3)
    acting = harness.coordinator()
    with reading(harness) as reader:
        assert reader.newest() is None
        decide(harness, acting, 0, learner=learnt(some_nets(harness.settings, 0, seed=3)[0]))
        assert reader.get(1, PATIENCE_S).manifest.kind == "learner"
        decide(harness, acting, 1, retrain=retrained(nets, catalogue))
        release = reader.get(2, PATIENCE_S)
        assert (release.manifest.kind, release.catalogue) == ("retrain", catalogue)
        assert torch.equal(release.nets.encoder.E, nets.encoder.E)
        newest = reader.newest()
        assert newest is not None
        assert newest.manifest.version == 2
        with pytest.raises(TimeoutError):
            reader.get(3, 0.05)
    with reading(harness) as late:
        assert late.get(2, PATIENCE_S).manifest == release.manifest
        assert late.get(0, PATIENCE_S).manifest.kind == "initial"


def test_what_is_not_on_kafka_is_read_from_the_tables(harness: RunHarness) -> None:
    harness.producer = FakeProducer()  # nothing reaches the broker
    acting = harness.coordinator()
    decide(harness, acting, 0, learner=learnt(some_nets(harness.settings, 0, seed=3)[0]))
    with reading(harness, patience_s=0.1) as reader:
        assert reader.get(1, PATIENCE_S).manifest.kind == "learner"


def test_what_was_missing_and_then_arrived_is_no_longer_waited_for(harness: RunHarness) -> None:
    acting = harness.coordinator()
    with reading(harness, patience_s=PATIENCE_S) as reader:
        waiting = threading.Thread(target=reader.item_statistics, args=(0, PATIENCE_S))
        waiting.start()

        def missed() -> None:
            assert set(reader._missed) >= {("item statistics", 0)}

        def nothing_missed() -> None:
            assert not reader._missed

        eventually(missed)
        decide(harness, acting, 0)
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()
        eventually(nothing_missed)


@pytest.mark.parametrize(("topic", "key"), [(MODEL_WEIGHTS, b"slow/2"), (ITEM_EMBEDDINGS, b"103")])
def test_a_damaged_release_is_served_from_the_tables_and_so_are_those_that_build_on_it(
    harness: RunHarness, topic: Topic, key: bytes
) -> None:
    nets, catalogue = some_nets(harness.settings, 4, seed=3)
    acting = harness.coordinator()
    decide(harness, acting, 0, learner=learnt(some_nets(harness.settings, 0, seed=3)[0]))
    decide(harness, acting, 1, retrain=retrained(nets, catalogue))
    wrong = b"torn"
    if topic is ITEM_EMBEDDINGS:
        wrong = encode(EmbeddingRow(103, 5, Tensor.of(np.zeros(8), "<f4"), 2))
    harness.producer.produce(topic.full(harness.settings), key=key, value=wrong)
    harness.producer.flush(10)
    decide(harness, acting, 2)
    decide(harness, acting, 3, retrain=retrained(changed(nets, [2]), catalogue))
    with reading(harness, patience_s=0.1) as reader:
        for version, expected in ((2, nets), (3, changed(nets, [2]))):
            E = reader.get(version, PATIENCE_S).nets.encoder.E
            assert torch.equal(E, expected.encoder.E)


def holder(harness: RunHarness) -> str | None:
    with harness.engine.connect() as connection:
        return connection.execute(sa.select(schema.leases.c.holder)).scalar()


def decided(harness: RunHarness, epoch: int) -> None:
    assert [decision.release for decision in harness.decisions()] == list(range(1, epoch + 2))


def test_of_two_coordinators_one_acts_until_it_stops(harness: RunHarness) -> None:
    stops = [threading.Event(), threading.Event()]
    first, second = (
        threading.Thread(target=coordinator.run, args=(harness.settings, harness.engine, stop)) for stop in stops
    )
    with reading(harness) as reader:
        try:
            first.start()
            reader.get(0, PATIENCE_S)
            acting = holder(harness)
            second.start()
            for epoch in range(4):
                if epoch == 2:
                    stops[0].set()
                    first.join(PATIENCE_S)
                harness.record(epoch)
                harness.propose("learner", epoch, learnt(some_nets(harness.settings, 0, seed=epoch)[0]))
                harness.propose("retrain", epoch, None)
                eventually(functools.partial(decided, harness, epoch))
                assert (holder(harness) == acting) == (epoch < 2)
            harness.record(3, over=True)
            second.join(PATIENCE_S)
            assert not second.is_alive(), "it ends with the log"
        finally:
            for stop in stops:
                stop.set()


def test_foreign_records_are_dead_letters_and_the_reader_goes_on(harness: RunHarness) -> None:
    producer = clients.producer(harness.settings, "test")
    for topic in (ITEM_EMBEDDINGS, MODEL_WEIGHTS, MODEL_RELEASES):
        for value in (b"garbage", b"\x01\x93\xa3row\x01\x02", bytes(range(256))):
            producer.produce(topic.full(harness.settings), key=b"x", value=value)
    assert producer.flush(10) == 0
    acting = harness.coordinator()
    with reading(harness) as reader:
        decide(harness, acting, 0)
        assert reader.get(0, PATIENCE_S).manifest.version == 0
        consumer = clients.consumer(harness.settings, "test")
        consumer.assign([TopicPartition(DEAD_LETTERS.full(harness.settings), 0, OFFSET_BEGINNING)])
        letters: Reader[DeadLetter] = Reader(DeadLetter)
        found: list[DeadLetter] = []

        def all_there() -> None:
            found.extend(letters.decode(m.value()) for m in consumer.consume(100, 0.1))
            assert len(found) == 9

        eventually(all_there)
        consumer.close()
    assert {(dead.topic, dead.offset) for dead in found} == {
        (topic.name, offset) for topic in (ITEM_EMBEDDINGS, MODEL_WEIGHTS, MODEL_RELEASES) for offset in range(3)
    }
    assert all(dead.reason and dead.role == "device" for dead in found)
