from __future__ import annotations

import pytest
import torch

from models.data.catalogue import Catalogue
from streams.coordinator.lease import Lease, LeaseLostError
from streams.database import run_state, schema
from streams.database.engine import connect
from streams.release_records import EpochDecision
from streams.releases import candidates
from streams.releases.release import read_manifest, read_release
from streams.releases.retrain_schedule import learner_delay, retrain_delay
from streams.settings import Settings
from tests.support.releases import FakeProducer, Killed, World, changed, learnt, retrained, some_nets


@pytest.fixture
def world(settings: Settings) -> World:
    settings = settings.model_copy(update={"dim": 8, "retrain_every": 2})
    return World(settings, connect(settings.database.get_secret_value()))


def outcomes(world: World) -> list[tuple[int, int, str]]:
    return [(d.epoch, d.release, d.outcome) for d in world.decisions()]


def test_release_0_is_published_before_any_decision(world: World) -> None:
    world.act()
    with world.engine.connect() as connection:
        release = read_release(connection, world.settings.run, 0)
    assert (release.manifest.kind, len(release.catalogue), release.manifest.items) == ("initial", 0, 2)
    assert world.producer.sent[-1][:2] == ("model-releases", b"active")
    assert world.decisions() == []


def test_every_epoch_is_decided_once_and_in_order(world: World) -> None:
    coordinator = world.coordinator()
    for epoch in range(2):
        world.record(epoch)
        world.act(coordinator)
        assert len(world.decisions()) == epoch, "it waits for the learner"
        world.propose("learner", epoch, None)
        if epoch == 1:
            world.act(coordinator)
            assert len(world.decisions()) == 1, "it waits for the retrain that is due"
            nets, catalogue = some_nets(world.settings, 5, seed=2)
            world.propose("retrain", 1, retrained(nets, catalogue))
        world.act(coordinator)
    assert outcomes(world) == [(0, 0, "unchanged"), (1, 1, "retrain")]
    assert not coordinator.is_finished()
    world.record(1, over=True)
    assert coordinator.is_finished()


def test_the_stream_goes_on_for_a_fixed_number_of_epochs_before_training_is_applied(world: World) -> None:
    delayed = {"retrain_every": 4, "retrain_delay": 2, "learner_delay": 1}
    world = World(world.settings.model_copy(update=delayed), world.engine)
    coordinator = world.coordinator()
    nets, catalogue = some_nets(world.settings, 5, seed=2)
    before, _ = some_nets(world.settings, 0, seed=7)  # of no item, as release 0, which the learner starts from
    for epoch in range(8):
        world.record(epoch)
        world.act(coordinator)
        if epoch == 5:
            assert len(world.decisions()) == 5, "it waits for the retrain on epochs 0 to 3"
            world.propose("retrain", 3, retrained(nets, catalogue))
            world.act(coordinator)
        assert len(world.decisions()) == epoch + 1
        world.propose("learner", epoch, learnt(before) if epoch == 1 else None)
    assert [(d.epoch, d.outcome) for d in world.decisions() if d.outcome != "unchanged"] == [
        (2, "learner"),
        (5, "retrain"),
    ]
    world.record(7, over=True)
    assert not coordinator.is_finished(), "the retrain on all epochs is missing"
    assert not coordinator.step()
    world.propose("retrain", 7, retrained(changed(nets, [3]), catalogue))
    world.act(world.coordinator())
    assert world.coordinator().is_finished()
    with world.engine.connect() as connection:
        assert read_manifest(connection, world.settings.run, 3).kind == "retrain"
    assert (len(world.decisions()), world.status("retrain", 7)) == (8, "accepted")


def test_a_delay_is_shorter_than_the_time_between_two_retrains_and_free_running_there_is_none() -> None:
    for lockstep, every, delay in ((True, 1, 0), (True, 3, 2), (True, 20, 5), (False, 20, 0)):
        settings = Settings(lockstep=lockstep, retrain_every=every, retrain_delay=5)
        assert (retrain_delay(settings), learner_delay(settings)) == (delay, int(lockstep))


def test_a_learner_release_replaces_the_fast_part_only_and_publishes_no_row(world: World) -> None:
    world.act()
    sent = len(world.producer.sent)
    world.record(0)
    world.propose("learner", 0, learnt(some_nets(world.settings, 0, seed=7)[0]))
    world.act()
    assert outcomes(world) == [(0, 1, "learner")]
    assert [topic for topic, _, _ in world.producer.sent[sent:]] == ["model-weights", *["model-releases"] * 4]
    with world.engine.connect() as connection:
        versions = read_manifest(connection, world.settings.run, 1).versions
        read_release(connection, world.settings.run, 1)
    assert (versions.encoder, versions.slow, versions.fast) == (0, 0, 1)


def test_a_learner_release_is_accepted_on_a_retrain_that_has_neighbours_of_items(world: World) -> None:
    world = World(world.settings.model_copy(update={"retrain_every": 1}), world.engine)
    world.act()
    nets, catalogue = some_nets(world.settings, 5, seed=2)
    world.record(0)
    world.propose("learner", 0, None)
    world.propose("retrain", 0, retrained(nets, catalogue))
    world.act()
    world = World(world.settings.model_copy(update={"retrain_every": 9}), world.engine)
    world.record(1)
    world.propose("learner", 1, learnt(nets))
    world.act()
    assert outcomes(world) == [(0, 1, "retrain"), (1, 2, "learner")]


def test_a_retrain_supersedes_the_learners_candidate(world: World) -> None:
    world = World(world.settings.model_copy(update={"retrain_every": 1}), world.engine)
    world.act()
    world.record(0)
    nets, catalogue = some_nets(world.settings, 4, seed=3)
    world.propose("learner", 0, learnt(nets))
    world.propose("retrain", 0, retrained(nets, catalogue))
    world.act()
    assert outcomes(world) == [(0, 1, "retrain")]
    assert world.status("retrain", 0) == "accepted"
    assert world.status("learner", 0) == "superseded"


def test_only_rows_whose_bytes_changed_are_published_again(world: World) -> None:
    world = World(world.settings.model_copy(update={"retrain_every": 1}), world.engine)
    coordinator = world.coordinator()
    nets, catalogue = some_nets(world.settings, 6, seed=3)
    for epoch, candidate in enumerate([nets, changed(nets, [3, 5])]):
        sent = len(world.producer.sent)
        world.record(epoch)
        world.propose("learner", epoch, None)
        world.act(coordinator)
        world.propose("retrain", epoch, retrained(candidate, catalogue))
        world.act(coordinator)
    rows = [key for topic, key, _ in world.producer.sent[sent:] if topic == "item-embeddings"]
    assert rows == [b"101", b"103"]
    with world.engine.connect() as connection:
        release = read_release(connection, world.settings.run, 2)
    assert torch.equal(release.nets.encoder.E, changed(nets, [3, 5]).encoder.E)


@pytest.mark.parametrize(
    ("quality", "why"),
    [
        ({"candidate": 1.03}, "held-out loss 1.030000 against 1.000000"),
        ({"candidate": None}, "not finite"),
        ({"finite": False}, "not finite"),
        ({"n": 0}, "no held-out examples"),
    ],
)
def test_the_gate_refuses_what_is_worse_or_not_finite(world: World, quality: dict[str, float], why: str) -> None:
    world.act()
    world.record(0)
    world.propose("learner", 0, learnt(some_nets(world.settings, 0, seed=7)[0]), **quality)
    world.act()
    assert outcomes(world) == [(0, 0, "rejected")]
    assert why in world.decisions()[0].reason
    assert world.status("learner", 0) == "rejected"


def test_nan_in_the_weights_is_refused_even_if_the_losses_are_finite(world: World) -> None:
    world.act()
    nets, _ = some_nets(world.settings, 0, seed=7)
    with torch.no_grad():
        nets.fast.w0.weight[0, 0] = float("nan")
    world.record(0)
    world.propose("learner", 0, learnt(nets))
    world.act()
    assert world.decisions() == [EpochDecision(0, 0, "rejected", "learner: part fast has a weight that is not finite")]


@pytest.mark.parametrize("what", ["sizes", "moved rows", "garbage"])
def test_a_retrain_that_does_not_fit_is_refused(world: World, what: str) -> None:
    world = World(world.settings.model_copy(update={"retrain_every": 1}), world.engine)
    coordinator = world.coordinator()
    nets, catalogue = some_nets(world.settings, 4, seed=3)
    small, _ = some_nets(world.settings.model_copy(update={"dim": 4}), 4, seed=3)
    wrong = {
        "sizes": retrained(small, catalogue),
        "moved rows": retrained(nets, Catalogue(catalogue.keys[::-1])),
        "garbage": b"no safetensors",
    }[what]
    for epoch, data in enumerate([retrained(nets, catalogue), wrong]):
        world.act(coordinator)
        world.record(epoch)
        world.propose("learner", epoch, None)
        world.propose("retrain", epoch, data)
        world.act(coordinator)
    assert outcomes(world) == [(0, 1, "retrain"), (1, 1, "rejected")]


def test_if_the_retrain_is_refused_the_learner_may_still_pass(world: World) -> None:
    world = World(world.settings.model_copy(update={"retrain_every": 1}), world.engine)
    world.act()
    world.record(0)
    nets, catalogue = some_nets(world.settings, 4, seed=3)
    world.propose("learner", 0, learnt(some_nets(world.settings, 0, seed=7)[0]))
    world.propose("retrain", 0, retrained(nets, catalogue), candidate=2.0)
    world.act()
    assert outcomes(world) == [(0, 1, "learner")]
    assert world.status("retrain", 0) == "rejected"
    assert "retrain: held-out loss 2.0" in world.decisions()[0].reason


def scenario(world: World) -> None:
    """Run two epochs with a release each, from the state of the tables on."""
    nets, catalogue = some_nets(world.settings, 3, seed=3)
    coordinator = world.coordinator()
    world.act(coordinator)
    for epoch in range(2):
        world.record(epoch)
        with world.engine.connect() as connection:
            t = schema.proposals.c
            there = {p.kind for p in candidates.read(connection, world.settings.run, t.epoch == epoch)}
        if "learner" not in there:
            world.propose("learner", epoch, learnt(some_nets(world.settings, 0, seed=epoch)[0]))
        if epoch == 1 and "retrain" not in there:
            world.propose("retrain", 1, retrained(nets, catalogue))
        world.act(coordinator)


def test_a_kill_before_any_record_changes_no_release_and_no_decision(world: World) -> None:
    scenario(world)
    expected, total = world.decisions(), len(world.producer.sent)
    last = {(topic, key): value for topic, key, value in world.producer.sent}
    assert [d.outcome for d in expected] == ["learner", "retrain"]
    for fatal in range(total):
        again = World(world.settings.model_copy(update={"run": f"t-{fatal}"}), world.engine)
        again.producer = FakeProducer(fatal)
        with pytest.raises(Killed):
            scenario(again)
        again.producer.fatal = None
        scenario(again)
        assert again.decisions() == expected
        assert {(topic, key): value for topic, key, value in again.producer.sent} == last


def test_releases_decisions_and_rollbacks_are_the_same_on_every_database(world: World, database_url: str) -> None:
    scenario(world)
    other = World(world.settings, connect(database_url))
    scenario(other)
    for each in (world, other):
        with each.engine.begin() as connection:
            candidates.request_rollback(connection, each.settings.run, 1)
        each.record(2)
        each.propose("learner", 2, None)
        each.act()
    assert other.decisions() == world.decisions()
    assert other.producer.sent == world.producer.sent
    other.engine.dispose()


def test_one_of_two_coordinators_acts_and_the_other_takes_over(world: World) -> None:
    now = 1_000
    first, second = (Lease(world.engine, world.settings.run, "coordinator", 100, lambda: now) for _ in range(2))
    assert first.acquire()
    assert not second.acquire()
    now += 101
    assert second.acquire()
    with world.engine.begin() as connection, pytest.raises(LeaseLostError):
        first.renew(connection)


def test_a_coordinator_whose_lease_expired_writes_nothing(world: World) -> None:
    sleeper = world.coordinator()
    world.act(sleeper)
    world.record(0)
    other = world.coordinator()  # takes the lease over
    world.propose("learner", 0, learnt(some_nets(world.settings, 0, seed=7)[0]))
    with pytest.raises(LeaseLostError):
        world.act(sleeper)
    assert world.decisions() == []
    world.act(other)
    assert outcomes(world) == [(0, 1, "learner")]


def test_a_rollback_publishes_older_weights_under_a_new_version(world: World) -> None:
    world = World(world.settings.model_copy(update={"retrain_every": 1}), world.engine)
    coordinator = world.coordinator()
    nets, catalogue = some_nets(world.settings, 4, seed=3)
    more, larger = some_nets(world.settings, 6, seed=4)
    for epoch, data in enumerate([retrained(nets, catalogue), retrained(more, larger)]):
        world.act(coordinator)
        world.record(epoch)
        world.propose("learner", epoch, None)
        world.propose("retrain", epoch, data)
        world.act(coordinator)
    with world.engine.begin() as connection:
        candidates.request_rollback(connection, world.settings.run, 1)
    world.record(2)
    world.propose("learner", 2, None)
    world.propose("retrain", 2, retrained(more, larger))
    world.act(coordinator)
    assert outcomes(world)[-1] == (2, 3, "rollback")
    assert world.status("retrain", 2) == "superseded"
    with world.engine.connect() as connection:
        release = read_release(connection, world.settings.run, 3)
    assert release.manifest.versions.encoder == 3
    assert torch.equal(release.nets.encoder.E, nets.encoder.E)
    assert release.catalogue == catalogue
    world.record(3)
    world.propose("learner", 3, None)
    world.propose("retrain", 3, retrained(more, larger))
    world.act(coordinator)
    assert outcomes(world)[-1] == (3, 4, "retrain"), "items keep the rows that they had before the rollback"


def test_free_running_a_rollback_takes_effect_at_once(world: World) -> None:
    world = World(world.settings.model_copy(update={"lockstep": False}), world.engine)
    coordinator = world.coordinator()
    world.act(coordinator)
    world.record(0)
    world.propose("learner", 0, learnt(some_nets(world.settings, 0, seed=7)[0]))
    world.act(coordinator)
    with world.engine.begin() as connection:
        candidates.request_rollback(connection, world.settings.run, 0)
    world.act(coordinator)
    with world.engine.connect() as connection:
        assert run_state.active_release(connection, world.settings.run) == 2
    assert outcomes(world) == [(0, 1, "learner")]


def test_free_running_a_late_retrain_is_reviewed_when_it_arrives(world: World) -> None:
    world = World(world.settings.model_copy(update={"lockstep": False, "retrain_every": 1}), world.engine)
    coordinator = world.coordinator()
    world.act(coordinator)
    nets, catalogue = some_nets(world.settings, 4, seed=3)
    for epoch in range(3):
        world.record(epoch)
        world.propose("learner", epoch, None)
        world.act(coordinator)
        if epoch == 0:
            world.propose("retrain", 0, retrained(nets, catalogue))
    assert outcomes(world) == [(0, 0, "unchanged"), (1, 1, "retrain"), (2, 1, "unchanged")]


def test_a_rollback_to_an_unknown_release_is_refused(world: World) -> None:
    world.act()
    with world.engine.begin() as connection, pytest.raises(candidates.CandidateError, match="no release 9"):
        candidates.request_rollback(connection, world.settings.run, 9)


def test_parts_that_no_kept_release_names_are_withdrawn(world: World) -> None:
    coordinator = world.coordinator()
    world.act(coordinator)
    for epoch in range(7):
        world.record(epoch)
        world.propose("learner", epoch, learnt(some_nets(world.settings, 0, seed=epoch)[0]))
        world.propose("retrain", epoch, None)
        world.act(coordinator)
    gone = [key for topic, key, value in world.producer.sent if topic == "model-weights" and value is None]
    assert gone == [b"fast/0", b"fast/1", b"fast/2", b"fast/3", b"fast/4"]
    with world.engine.connect() as connection:
        for version in range(8):
            read_release(connection, world.settings.run, version)
