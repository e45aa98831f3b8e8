from __future__ import annotations

import pytest
import sqlalchemy as sa
import torch

from models.data.catalogue import Catalogue
from streams.coordinator.lease import Lease, LeaseLostError
from streams.database import run_state, schema
from streams.database.engine import connect
from streams.process import telemetry
from streams.release_records import EpochDecision
from streams.releases import candidates
from streams.releases.release import read_manifest, read_release
from streams.releases.retrain_schedule import learner_delay, retrain_delay
from streams.settings import Settings
from tests.support.releases import FakeProducer, Killed, RunHarness, changed, learnt, retrained, some_nets


@pytest.fixture
def harness(settings: Settings) -> RunHarness:
    return RunHarness.of(settings, dim=8, retrain_every=2)


def outcomes(harness: RunHarness) -> list[tuple[int, int, str]]:
    return [(d.epoch, d.release, d.outcome) for d in harness.decisions()]


def test_release_0_is_published_before_any_decision(harness: RunHarness) -> None:
    harness.act()
    with harness.engine.connect() as connection:
        release = read_release(connection, harness.settings.run, 0)
    assert (release.manifest.kind, len(release.catalogue), release.manifest.items) == ("initial", 0, 2)
    assert harness.producer.sent[-1][:2] == ("model-releases", b"active")
    assert harness.decisions() == []


def test_each_outcome_is_counted_from_zero_so_that_prometheus_sees_the_first_one(harness: RunHarness) -> None:
    telemetry.RELEASES.clear()
    harness.coordinator()
    counted = {sample.labels["outcome"] for metric in telemetry.RELEASES.collect() for sample in metric.samples}
    assert counted == {"unchanged", "retrain", "learner", "rejected", "rollback"}


def test_every_epoch_is_decided_once_and_in_order(harness: RunHarness) -> None:
    coordinator = harness.coordinator()
    for epoch in range(2):
        harness.record(epoch)
        harness.act(coordinator)
        assert len(harness.decisions()) == epoch, "it waits for the learner"
        harness.propose("learner", epoch, None)
        if epoch == 1:
            harness.act(coordinator)
            assert len(harness.decisions()) == 1, "it waits for the retrain that is due"
            nets, catalogue = some_nets(harness.settings, 5, seed=2)
            harness.propose("retrain", 1, retrained(nets, catalogue))
        harness.act(coordinator)
    assert outcomes(harness) == [(0, 0, "unchanged"), (1, 1, "retrain")]
    assert not coordinator.is_finished()
    harness.record(1, over=True)
    assert coordinator.is_finished()


def test_the_stream_goes_on_for_a_fixed_number_of_epochs_before_training_is_applied(harness: RunHarness) -> None:
    harness = harness.changed(retrain_every=4, retrain_delay=2, learner_delay=1)
    coordinator = harness.coordinator()
    nets, catalogue = some_nets(harness.settings, 5, seed=2)
    before, _ = some_nets(harness.settings, 0, seed=7)  # of no item, as release 0, which the learner starts from
    for epoch in range(8):
        harness.record(epoch)
        harness.act(coordinator)
        if epoch == 5:
            assert len(harness.decisions()) == 5, "it waits for the retrain on epochs 0 to 3"
            harness.propose("retrain", 3, retrained(nets, catalogue))
            harness.act(coordinator)
        assert len(harness.decisions()) == epoch + 1
        harness.propose("learner", epoch, learnt(before) if epoch == 1 else None)
    assert [(d.epoch, d.outcome) for d in harness.decisions() if d.outcome != "unchanged"] == [
        (2, "learner"),
        (5, "retrain"),
    ]
    harness.record(7, over=True)
    assert not coordinator.is_finished(), "the retrain on all epochs is missing"
    assert not coordinator.step()
    harness.propose("retrain", 7, retrained(changed(nets, [3]), catalogue))
    harness.act(harness.coordinator())
    assert harness.coordinator().is_finished()
    with harness.engine.connect() as connection:
        assert read_manifest(connection, harness.settings.run, 3).kind == "retrain"
    assert (len(harness.decisions()), harness.status("retrain", 7)) == (8, "accepted")


def test_a_delay_is_shorter_than_the_time_between_two_retrains_and_free_running_there_is_none() -> None:
    for lockstep, every, delay in ((True, 1, 0), (True, 3, 2), (True, 20, 5), (False, 20, 0)):
        settings = Settings(lockstep=lockstep, retrain_every=every, retrain_delay=5)
        assert (retrain_delay(settings), learner_delay(settings)) == (delay, int(lockstep))


def test_a_learner_release_replaces_the_fast_part_only_and_publishes_no_row(harness: RunHarness) -> None:
    harness.act()
    sent = len(harness.producer.sent)
    harness.record(0)
    harness.propose("learner", 0, learnt(some_nets(harness.settings, 0, seed=7)[0]))
    harness.act()
    assert outcomes(harness) == [(0, 1, "learner")]
    assert [topic for topic, _, _ in harness.producer.sent[sent:]] == ["model-weights", *["model-releases"] * 4]
    with harness.engine.connect() as connection:
        versions = read_manifest(connection, harness.settings.run, 1).versions
        read_release(connection, harness.settings.run, 1)
    assert (versions.encoder, versions.slow, versions.fast) == (0, 0, 1)


def test_a_learner_release_is_accepted_on_a_retrain_that_has_neighbours_of_items(harness: RunHarness) -> None:
    harness = harness.changed(retrain_every=1)
    harness.act()
    nets, catalogue = some_nets(harness.settings, 5, seed=2)
    harness.record(0)
    harness.propose("learner", 0, None)
    harness.propose("retrain", 0, retrained(nets, catalogue))
    harness.act()
    harness = harness.changed(retrain_every=9)
    harness.record(1)
    harness.propose("learner", 1, learnt(nets))
    harness.act()
    assert outcomes(harness) == [(0, 1, "retrain"), (1, 2, "learner")]


def test_a_retrain_supersedes_the_learners_candidate(harness: RunHarness) -> None:
    harness = harness.changed(retrain_every=1)
    harness.act()
    harness.record(0)
    nets, catalogue = some_nets(harness.settings, 4, seed=3)
    harness.propose("learner", 0, learnt(nets))
    harness.propose("retrain", 0, retrained(nets, catalogue))
    harness.act()
    assert outcomes(harness) == [(0, 1, "retrain")]
    assert harness.status("retrain", 0) == "accepted"
    assert harness.status("learner", 0) == "superseded"


def test_only_rows_whose_bytes_changed_are_published_again(harness: RunHarness) -> None:
    harness = harness.changed(retrain_every=1)
    coordinator = harness.coordinator()
    nets, catalogue = some_nets(harness.settings, 6, seed=3)
    for epoch, candidate in enumerate([nets, changed(nets, [3, 5])]):
        sent = len(harness.producer.sent)
        harness.record(epoch)
        harness.propose("learner", epoch, None)
        harness.act(coordinator)
        harness.propose("retrain", epoch, retrained(candidate, catalogue))
        harness.act(coordinator)
    rows = [key for topic, key, _ in harness.producer.sent[sent:] if topic == "item-embeddings"]
    assert rows == [b"101", b"103"]
    with harness.engine.connect() as connection:
        release = read_release(connection, harness.settings.run, 2)
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
def test_the_gate_refuses_what_is_worse_or_not_finite(harness: RunHarness, quality: dict[str, float], why: str) -> None:
    harness.act()
    harness.record(0)
    harness.propose("learner", 0, learnt(some_nets(harness.settings, 0, seed=7)[0]), **quality)
    harness.act()
    assert outcomes(harness) == [(0, 0, "rejected")]
    assert why in harness.decisions()[0].reason
    assert harness.status("learner", 0) == "rejected"


def test_nan_in_the_weights_is_refused_even_if_the_losses_are_finite(harness: RunHarness) -> None:
    harness.act()
    nets, _ = some_nets(harness.settings, 0, seed=7)
    with torch.no_grad():
        nets.fast.w0.weight[0, 0] = float("nan")
    harness.record(0)
    harness.propose("learner", 0, learnt(nets))
    harness.act()
    assert harness.decisions() == [
        EpochDecision(0, 0, "rejected", "learner: part fast has a weight that is not finite")
    ]


@pytest.mark.parametrize("what", ["sizes", "moved rows", "garbage"])
def test_a_retrain_that_does_not_fit_is_refused(harness: RunHarness, what: str) -> None:
    harness = harness.changed(retrain_every=1)
    coordinator = harness.coordinator()
    nets, catalogue = some_nets(harness.settings, 4, seed=3)
    small, _ = some_nets(harness.settings.model_copy(update={"dim": 4}), 4, seed=3)
    wrong = {
        "sizes": retrained(small, catalogue),
        "moved rows": retrained(nets, Catalogue(catalogue.keys[::-1])),
        "garbage": b"no safetensors",
    }[what]
    for epoch, data in enumerate([retrained(nets, catalogue), wrong]):
        harness.act(coordinator)
        harness.record(epoch)
        harness.propose("learner", epoch, None)
        harness.propose("retrain", epoch, data)
        harness.act(coordinator)
    assert outcomes(harness) == [(0, 1, "retrain"), (1, 1, "rejected")]


def test_if_the_retrain_is_refused_the_learner_may_still_pass(harness: RunHarness) -> None:
    harness = harness.changed(retrain_every=1)
    harness.act()
    harness.record(0)
    nets, catalogue = some_nets(harness.settings, 4, seed=3)
    harness.propose("learner", 0, learnt(some_nets(harness.settings, 0, seed=7)[0]))
    harness.propose("retrain", 0, retrained(nets, catalogue), candidate=2.0)
    harness.act()
    assert outcomes(harness) == [(0, 1, "learner")]
    assert harness.status("retrain", 0) == "rejected"
    assert "retrain: held-out loss 2.0" in harness.decisions()[0].reason


def scenario(harness: RunHarness) -> None:
    """Run two epochs with a release each, from the state of the tables on."""
    nets, catalogue = some_nets(harness.settings, 3, seed=3)
    coordinator = harness.coordinator()
    harness.act(coordinator)
    for epoch in range(2):
        harness.record(epoch)
        with harness.engine.connect() as connection:
            t = schema.proposals.c
            there = {p.kind for p in candidates.read(connection, harness.settings.run, t.epoch == epoch)}
        if "learner" not in there:
            harness.propose("learner", epoch, learnt(some_nets(harness.settings, 0, seed=epoch)[0]))
        if epoch == 1 and "retrain" not in there:
            harness.propose("retrain", 1, retrained(nets, catalogue))
        harness.act(coordinator)


def test_a_kill_before_any_record_changes_no_release_and_no_decision(harness: RunHarness) -> None:
    scenario(harness)
    expected, total = harness.decisions(), len(harness.producer.sent)
    last = {(topic, key): value for topic, key, value in harness.producer.sent}
    assert [d.outcome for d in expected] == ["learner", "retrain"]
    for fatal in range(total):
        again = harness.changed(run=f"t-{fatal}")
        again.producer = FakeProducer(fatal)
        with pytest.raises(Killed):
            scenario(again)
        again.producer.fatal = None
        scenario(again)
        assert again.decisions() == expected
        assert {(topic, key): value for topic, key, value in again.producer.sent} == last


def test_releases_decisions_and_rollbacks_are_equal_on_every_database(harness: RunHarness, database_url: str) -> None:
    scenario(harness)
    other = RunHarness(harness.settings, connect(database_url))
    scenario(other)
    for each in (harness, other):
        with each.engine.begin() as connection:
            candidates.request_rollback(connection, each.settings.run, 1)
        each.record(2)
        each.propose("learner", 2, None)
        each.act()
    assert other.decisions() == harness.decisions()
    assert other.producer.sent == harness.producer.sent
    other.engine.dispose()


def test_one_of_two_coordinators_acts_and_the_other_takes_over(harness: RunHarness) -> None:
    now = 1_000
    first, second = (Lease(harness.engine, harness.settings.run, "coordinator", 100, lambda: now) for _ in range(2))
    assert first.acquire()
    assert not second.acquire()
    now += 101
    assert second.acquire()
    with harness.engine.begin() as connection, pytest.raises(LeaseLostError):
        first.renew(connection)


def test_a_coordinator_whose_lease_expired_writes_nothing(harness: RunHarness) -> None:
    sleeper = harness.coordinator()
    harness.act(sleeper)
    harness.record(0)
    other = harness.coordinator()  # takes the lease over
    harness.propose("learner", 0, learnt(some_nets(harness.settings, 0, seed=7)[0]))
    with pytest.raises(LeaseLostError):
        harness.act(sleeper)
    assert harness.decisions() == []
    harness.act(other)
    assert outcomes(harness) == [(0, 1, "learner")]


def test_a_rollback_publishes_older_weights_under_a_new_version(harness: RunHarness) -> None:
    harness = harness.changed(retrain_every=1)
    coordinator = harness.coordinator()
    nets, catalogue = some_nets(harness.settings, 4, seed=3)
    more, larger = some_nets(harness.settings, 6, seed=4)
    for epoch, data in enumerate([retrained(nets, catalogue), retrained(more, larger)]):
        harness.act(coordinator)
        harness.record(epoch)
        harness.propose("learner", epoch, None)
        harness.propose("retrain", epoch, data)
        harness.act(coordinator)
    with harness.engine.begin() as connection:
        candidates.request_rollback(connection, harness.settings.run, 1)
    harness.record(2)
    harness.propose("learner", 2, None)
    harness.propose("retrain", 2, retrained(more, larger))
    harness.act(coordinator)
    assert outcomes(harness)[-1] == (2, 3, "rollback")
    assert harness.status("retrain", 2) == "superseded"
    with harness.engine.connect() as connection:
        release = read_release(connection, harness.settings.run, 3)
    assert release.manifest.versions.encoder == 3
    assert torch.equal(release.nets.encoder.E, nets.encoder.E)
    assert release.catalogue == catalogue
    harness.record(3)
    harness.propose("learner", 3, None)
    harness.propose("retrain", 3, retrained(more, larger))
    harness.act(coordinator)
    assert outcomes(harness)[-1] == (3, 4, "retrain"), "items keep the rows that they had before the rollback"


def test_free_running_a_rollback_takes_effect_at_once(harness: RunHarness) -> None:
    harness = harness.changed(lockstep=False)
    coordinator = harness.coordinator()
    harness.act(coordinator)
    harness.record(0)
    harness.propose("learner", 0, learnt(some_nets(harness.settings, 0, seed=7)[0]))
    harness.act(coordinator)
    with harness.engine.begin() as connection:
        candidates.request_rollback(connection, harness.settings.run, 0)
    harness.act(coordinator)
    with harness.engine.connect() as connection:
        assert run_state.active_release(connection, harness.settings.run) == 2
    assert outcomes(harness) == [(0, 1, "learner")]


def test_free_running_a_late_retrain_is_reviewed_when_it_arrives(harness: RunHarness) -> None:
    harness = harness.changed(lockstep=False, retrain_every=1)
    coordinator = harness.coordinator()
    harness.act(coordinator)
    nets, catalogue = some_nets(harness.settings, 4, seed=3)
    for epoch in range(3):
        harness.record(epoch)
        harness.propose("learner", epoch, None)
        harness.act(coordinator)
        if epoch == 0:
            harness.propose("retrain", 0, retrained(nets, catalogue))
    assert outcomes(harness) == [(0, 0, "unchanged"), (1, 1, "retrain"), (2, 1, "unchanged")]


def test_a_rollback_to_an_unknown_release_is_refused(harness: RunHarness) -> None:
    harness.act()
    with harness.engine.begin() as connection, pytest.raises(candidates.CandidateError, match="no release 9"):
        candidates.request_rollback(connection, harness.settings.run, 9)


def test_a_rollback_in_a_run_that_has_ended_is_refused(harness: RunHarness) -> None:
    harness.act()
    row = {"run": harness.settings.run, "created_wall": 0, "source": "", "settings": {}, "versions": {}}
    with harness.engine.begin() as connection:
        connection.execute(sa.insert(schema.runs), [row | {"status": "finished"}])
        with pytest.raises(candidates.CandidateError, match="has ended"):
            candidates.request_rollback(connection, harness.settings.run, 0)


def test_parts_that_no_kept_release_names_are_withdrawn(harness: RunHarness) -> None:
    coordinator = harness.coordinator()
    harness.act(coordinator)
    for epoch in range(7):
        harness.record(epoch)
        harness.propose("learner", epoch, learnt(some_nets(harness.settings, 0, seed=epoch)[0]))
        harness.propose("retrain", epoch, None)
        harness.act(coordinator)
    gone = [key for topic, key, value in harness.producer.sent if topic == "model-weights" and value is None]
    assert gone == [b"fast/0", b"fast/1", b"fast/2", b"fast/3", b"fast/4"]
    with harness.engine.connect() as connection:
        for version in range(8):
            read_release(connection, harness.settings.run, version)
