from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from models.mc2sf.tiled_scorer import Scorer
from streams.codec import Tensor, encode
from streams.coordinator import coordinator
from streams.database import run_state, schema
from streams.database.engine import insert_new
from streams.database.interaction_log import Interactions
from streams.kafka import clients, topic_admin
from streams.kafka.message import Message
from streams.kafka.partition_consumer import PartitionConsumer
from streams.kafka.types import TopicPartition
from streams.learner import learner
from streams.learner.learner import Learner
from streams.learner.trainer import Trainer
from streams.records import DeadLetter, EndOfLog, EpochEnd, FastExample, Versions
from streams.release_records import Manifest
from streams.releases import candidates
from streams.releases.candidates import ReleaseCandidate
from streams.releases.release import Release, read_manifest, read_release
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, FAST_EXAMPLES
from tests.support.hangs import SlowHealth
from tests.support.releases import RunHarness, retrained, some_nets
from tests.support.workers import TopicReader

ITEMS = 20


@pytest.fixture
def harness(settings: Settings) -> RunHarness:
    """A run whose release 1 is a retrain's over some items, decided at epoch 0."""
    few = {"dim": 8, "retrain_every": 6, "partitions": 2, "gate_margin": 0.0, "online_rate": 5e-3, "batch": 16}
    return RunHarness.of(settings, **few)


def made(settings: Settings, user: int, epoch: int, versions: Versions) -> FastExample:
    """Return an example with a pattern to learn: the cloud's prior is large for the clicked item."""
    rng = np.random.default_rng([user, epoch])
    items = 100 + rng.permutation(ITEMS)[:5]
    clicks = np.append(rng.integers(100, 100 + ITEMS, 4), items[0])
    r_t = rng.normal(size=(5, settings.dim))
    r_t[0] += 1
    return FastExample(
        f"u{user}",
        epoch,
        epoch,
        epoch * 1000 + user,
        Tensor.of(clicks, "<i8"),
        Tensor.of(items[1:], "<i8"),
        Tensor.of(items, "<i8"),
        Tensor.of(r_t, "<f2"),
        Tensor.of(rng.normal(size=(5, settings.dim)), "<f2"),
        versions,
    )


class TrainingRun:
    """A learner that gets the epochs of one log directly, with restarts on request."""

    def __init__(self, harness: RunHarness, per_epoch: int = 200) -> None:
        self.harness, self.per_epoch = harness, per_epoch
        self.acting = harness.coordinator()
        harness.act(self.acting)
        self.learner = Learner(harness.settings, harness.engine)
        self.offsets = [0, 0]

    def restart(self) -> None:
        """Start again from the tables, as after a crash."""
        self.learner = Learner(self.harness.settings, self.harness.engine)

    def versions(self) -> Versions:
        with self.harness.engine.connect() as connection:
            version = run_state.active_release(connection, self.harness.settings.run)
            assert version is not None
            return read_manifest(connection, self.harness.settings.run, version).versions

    def epoch(
        self, epoch: int, *, versions: Versions | None = None, restart: str = "", reject: bool = False
    ) -> ReleaseCandidate:
        """Run one epoch from its examples to its decision, or with a delay to that of the epoch before."""
        ahead = self.harness.settings.learner_delay
        self.harness.record(epoch)
        versions = versions or self.versions()
        for user in range(self.per_epoch):
            self._put(user % 2, made(self.harness.settings, user, epoch, versions))
        for partition in range(2):
            self._put(partition, EpochEnd(epoch, epoch * 1000))
        assert self.learner.buffer.ready()
        if ahead:
            assert not self.learner.check_decision(), "it is due at the end of this epoch"
            self._decide(epoch)
        assert self.learner.awaited is None or self.learner.check_decision()
        self.learner.train()
        if reject:
            numbers = {"active": 1.0, "candidate": 2.0, "n": 300, "finite": True}
            with self.harness.engine.begin() as connection:
                connection.execute(sa.update(schema.proposals).values(quality=numbers))
        if "before" in restart:
            self.restart()
        if not ahead:
            self._decide(epoch)
        if "after" in restart:
            self.restart()
        t = schema.proposals.c
        with self.harness.engine.connect() as connection:
            own = (t.kind == "learner") & (t.epoch == epoch)
            return candidates.read(connection, self.harness.settings.run, own)[0]

    def _decide(self, epoch: int) -> None:
        nets, catalogue = some_nets(self.harness.settings, ITEMS, seed=epoch)
        due = (epoch + 1) % self.harness.settings.retrain_every == 0
        if due or epoch == 0:
            self.harness.propose("retrain", epoch, retrained(nets, catalogue))
        self.harness.act(self.acting)

    def _put(self, partition: int, record: FastExample | EpochEnd) -> None:
        self.learner.buffer.put(partition, self.offsets[partition], record)
        self.offsets[partition] += 1


def fast_parts(harness: RunHarness) -> list[str]:
    """Return the checksums of the fast parts of all releases."""
    with harness.engine.connect() as connection:
        t = schema.releases.c
        versions = connection.execute(sa.select(t.version).where(t.run == harness.settings.run)).scalars().all()
        return [read_manifest(connection, harness.settings.run, version).parts["fast"] for version in versions]


def test_without_a_catalogue_the_candidate_is_empty(harness: RunHarness) -> None:
    proposal = TrainingRun(harness).epoch(0)
    assert (proposal.status, proposal.quality["n"]) == ("empty", 0)
    assert harness.decisions()[0].outcome == "retrain"


def test_a_release_is_better_on_hundreds_of_examples_that_it_had_not_learnt_from(harness: RunHarness) -> None:
    training = TrainingRun(harness, per_epoch=150)
    found = [training.epoch(epoch) for epoch in range(6)]
    assert [proposal.quality["n"] for proposal in found[:5]] == [0, 0, 150, 300, 150]
    assert [proposal.status for proposal in found[:5]] == ["empty", "empty", "empty", "accepted", "empty"]
    accepted = found[3].quality
    assert accepted["active"] - accepted["candidate"] > accepted["radius"] > 0
    assert found[3].trained_until == 2149, "the weights are those that ranked the examples of epoch 3"


def test_a_gain_that_is_certain_but_tiny_is_no_release(harness: RunHarness) -> None:
    harness = harness.changed(online_rate=1e-7, retrain_every=100)
    training = TrainingRun(harness, per_epoch=400)
    found = [training.epoch(epoch) for epoch in range(4)]
    assert found[3].quality["n"] == 800
    assert found[3].quality["active"] - found[3].quality["candidate"] > found[3].quality["radius"]
    assert [decision.outcome for decision in harness.decisions()] == ["retrain", *["unchanged"] * 3]


@pytest.mark.slow
@pytest.mark.parametrize(("restart", "delay"), [("before and after", 0), ("after", 1)])
def test_a_restart_around_a_decision_changes_no_bit(harness: RunHarness, restart: str, delay: int) -> None:
    harness = harness.changed(learner_delay=delay)
    straight = TrainingRun(harness)
    for epoch in range(8):
        straight.epoch(epoch)
    again = harness.changed(run="t-again")
    crashing = TrainingRun(again)
    for epoch in range(8):
        crashing.epoch(epoch, restart=restart)
    assert again.decisions() == harness.decisions()
    assert {d.outcome for d in again.decisions()} >= {"learner", "retrain"}
    assert fast_parts(again) == fast_parts(harness)


def test_weights_that_became_worse_are_discarded(harness: RunHarness) -> None:
    training = TrainingRun(harness.changed(online_rate=3.0))
    training.epoch(0)
    before = fast_parts(harness)
    found = [training.epoch(epoch) for epoch in range(1, 5)]
    assert [proposal.quality["discarded"] for proposal in found] == [0, 1, 1, 1]
    assert {proposal.status for proposal in found} == {"empty"}
    assert found[1].quality["candidate"] > found[1].quality["active"] + 1
    assert found[2].quality["n"] == 200, "the evidence began anew"
    assert fast_parts(harness) == before


@pytest.mark.parametrize("restart", ["", "before and after"])
def test_a_rejected_candidate_is_discarded(harness: RunHarness, restart: str) -> None:
    training = TrainingRun(harness, per_epoch=300)
    for epoch in range(2):
        training.epoch(epoch)
    rejected = training.epoch(2, restart=restart, reject=True)
    assert rejected.status == "rejected"
    assert rejected.offsets["fast-examples/0"] > 0
    after = training.epoch(3)
    assert (after.quality["n"], after.quality["learnt"]) == (0, 300), "the weights that learn are the released ones"


def test_examples_of_another_encoder_are_dropped(harness: RunHarness) -> None:
    training = TrainingRun(harness)
    training.epoch(0)
    assert training.epoch(1, versions=Versions(0, 0, 0, 0)).quality["learnt"] == 0
    assert training.epoch(2).quality["learnt"] == 200


def test_few_examples_are_kept_until_there_are_enough_even_over_a_restart(harness: RunHarness) -> None:
    training = TrainingRun(harness, per_epoch=20)
    found = [training.epoch(epoch, restart="after" if epoch == 2 else "") for epoch in range(4)]
    assert [proposal.quality["learnt"] for proposal in found] == [0, 0, 0, 60]
    assert [proposal.quality["new"] for proposal in found] == [0, 20, 20, 20], "each is ranked once"


def put_walks(harness: RunHarness, epochs: int) -> None:
    """Record users who click item after item in one order, and from epoch 1 on item 900 after item 100."""
    events = []
    for epoch in range(epochs):
        for user in range(30):
            start = 100 + (user + epoch) % (ITEMS - 3)
            items = [start, start + 1, start + 2] if user % 3 or not epoch else [100, 900]
            events += [(f"u{user}", 3 * epoch + i, item, epoch) for i, item in enumerate(items)]
    rows = [
        {"run": harness.settings.run, "user": user, "seq": seq, "item": item, "epoch": epoch, "kind": 1}
        | {"time": 1000 * seq, "group_time": 1000 * seq, "impression": 0}
        for user, seq, item, epoch in events
    ]
    with harness.engine.begin() as connection:
        insert_new(connection, schema.interactions, rows)


def test_transitions_are_counted_anew_from_all_clicks_before_and_new_items_have_some(harness: RunHarness) -> None:
    harness = harness.changed(transitions_every=2, online_rate=1e-9)
    put_walks(harness, 5)
    training = TrainingRun(harness, per_epoch=60)
    found = [training.epoch(epoch) for epoch in range(5)]
    assert [proposal.quality["transitions"] for proposal in found] == [0, 0, 1, 0, 1]
    assert [decision.outcome for decision in harness.decisions()] == [
        "retrain",
        "unchanged",
        "learner",
        "unchanged",
        "learner",
    ]
    assert found[4].quality["n"] == 120, "the evidence on fresh transitions adds up"
    with harness.engine.connect() as connection:
        retrained, second, last = (read_release(connection, harness.settings.run, version) for version in (1, 2, 3))
    assert all(p.equal(q) for p, q in zip(retrained.nets.fast.parameters(), last.nets.fast.parameters(), strict=True))
    followed = [
        release.nets.fast.neighbours.affinity(*release.near([100], [900, 101]))[1]
        for release in (retrained, second, last)
    ]
    assert [(weights > 0).tolist() for weights in followed] == [[False] * 2, [True] * 2, [True] * 2]
    assert followed[2][0] > followed[1][0], "it was clicked again"
    assert last.catalogue.rows([900]).tolist() == [1], "it has no row in E"


def test_a_restart_while_transitions_are_counted_changes_no_bit(harness: RunHarness) -> None:
    found = []
    for run, each in (("t-one", ""), ("t-two", "before and after")):
        training = TrainingRun(harness.changed(transitions_every=2, run=run), per_epoch=100)
        put_walks(training.harness, 5)
        for epoch in range(5):
            training.epoch(epoch, restart=each)
        found.append((training.harness.decisions(), fast_parts(training.harness)))
    assert found[0] == found[1]
    assert sum(decision.outcome == "learner" for decision in found[0][0]) == 2


def test_transitions_that_became_worse_are_not_released(harness: RunHarness) -> None:
    nets, catalogue = some_nets(harness.settings, ITEMS, seed=1)
    nets.fast.stack[-1] = -9.0  # the opposite of what follows is recommended
    versions = Versions(1, 1, 1, 1)
    manifest = Manifest(1, 0, "retrain", versions, 0, 0, catalogue.size, "", {}, {}, {})
    trainer = Trainer(harness.settings, Release(manifest, nets, Scorer(nets), catalogue))
    put_walks(harness, 5)
    interactions = Interactions(harness.settings.run)
    with harness.engine.connect() as connection:
        interactions.load(connection)
    found = []
    for epoch in range(3):
        examples = [made(harness.settings, user, epoch, versions) for user in range(150)]
        walks = [replace(each, clicks=Tensor.of(each.items.array()[:1] - 1, "<i8")) for each in examples]
        found.append(trainer.train([], walks, interactions.log()))
    assert [trained.quality["transitions"] for trained in found] == [1, 0, 0]
    assert trainer.freshness.verdict() == "higher"


def test_only_the_bytes_of_candidates_that_are_still_needed_are_kept(harness: RunHarness) -> None:
    harness = harness.changed(retrain_every=100)
    training = TrainingRun(harness, per_epoch=60)
    for epoch in range(12):
        training.epoch(epoch)
    t = schema.proposals.c
    with harness.engine.connect() as connection:
        kept = candidates.read(connection, harness.settings.run, t.data.is_not(None) & (t.kind == "learner"))
        assert 1 <= len(kept) <= 6
        assert all(each.epoch == 11 or each.status == candidates.WAITING for each in kept)


def test_on_a_broker_it_writes_a_candidate_per_epoch_and_ends_with_the_log(broker_settings: Settings) -> None:
    harness = RunHarness.of(broker_settings, dim=8, partitions=2, retrain_every=2)
    settings = harness.settings
    topic_admin.create(settings)
    producer = clients.producer(settings, "test")
    topic, dead_letters = FAST_EXAMPLES.full(settings), TopicReader(settings, DEAD_LETTERS, DeadLetter)
    stop = threading.Event()
    parts = [
        threading.Thread(target=part.run, args=(settings, harness.engine, stop)) for part in (coordinator, learner)
    ]
    for part in parts:
        part.start()
    try:
        versions = Versions()
        for epoch in range(4):
            producer.produce(topic, b"garbage", partition=epoch % 2)
            for user in range(120):
                example = made(settings, user, epoch, versions)
                producer.produce(topic, encode(example), key=example.user.encode())
            misplaced = encode(made(settings, 500, epoch, versions))
            producer.produce(topic, misplaced, key=b"somebody else")
            for partition in range(2):
                producer.produce(topic, encode(EpochEnd(epoch, 0)), partition=partition)
                if epoch == 3:
                    producer.produce(topic, encode(EndOfLog(3, 0, 0)), partition=partition)
            assert producer.flush(10) == 0
            if epoch in {1, 3}:
                nets, catalogue = some_nets(settings, ITEMS, seed=epoch)
                wait_for(harness, 0 if epoch == 1 else 2)
                harness.propose("retrain", epoch, retrained(nets, catalogue))
            harness.record(epoch)
            versions = wait_for(harness, epoch)
        producer.produce(topic, b"garbage", partition=0)  # the recorder is not done: there may still be some to refuse
        assert producer.flush(10) == 0
        dead = dead_letters.until(lambda all_so_far: len(all_so_far) >= 9, "every dead record")
        harness.record(3, over=True)
        for part in parts:
            part.join(30)
            assert not part.is_alive()
    finally:
        stop.set()
        dead_letters.close()
    assert [d.outcome for d in harness.decisions()][1:] == ["retrain", "unchanged", "retrain"]
    assert [record.value for record in dead if "under the key" not in record.reason] == [b"garbage"] * 5
    assert [record.key for record in dead if "under the key" in record.reason] == [b"somebody else"] * 4


class TwoEpochs(PartitionConsumer):
    """Has delivered the ends of two epochs without examples when it is first read."""

    def __init__(self, *_: object, **__: object) -> None:
        self._left = [
            Message(FAST_EXAMPLES.name, partition, epoch, b"", encode(EpochEnd(epoch, 0)))
            for partition in range(2)
            for epoch in range(2)
        ]

    def read(self, *_: object) -> list[Message]:
        found, self._left = self._left, []
        return found

    def lag(self) -> dict[TopicPartition, int]:
        return {}

    def pause_only(self, paused: Iterable[TopicPartition]) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_learner_that_hangs_in_the_database_is_stuck_and_one_that_trains_long_is_not(harness: RunHarness) -> None:
    harness = harness.changed(learner_delay=0)
    harness.act()
    health = SlowHealth()

    class Stop(threading.Event):
        """Is set at the first wait for a change in the database, which takes long too."""

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            health.in_statements.append(health.later())
            self.set()
            return True

    with health.hanging(harness.engine):
        learner.run(harness.settings, harness.engine, Stop(), TwoEpochs, health)
    assert harness.status("learner", 0) == "empty"
    assert len(health.in_statements) > 5
    assert all(said.startswith("a call is pending") for said in health.in_statements)
    assert health.while_busy == [""]
    assert health.stuck() == ""


def wait_for(harness: RunHarness, epoch: int) -> Versions:
    """Wait until `epoch` is decided; return the versions that are active then."""
    waiting = threading.Event()
    for _ in range(3000):
        with harness.engine.connect() as connection:
            decision = run_state.decision(connection, harness.settings.run, epoch)
            if decision is not None:
                return read_manifest(connection, harness.settings.run, decision.release).versions
        waiting.wait(0.01)
    raise AssertionError(f"epoch {epoch} was never decided")
