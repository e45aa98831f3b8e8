"""Retention of releases' weights in a run of months: on Kafka, and in the tables."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from streams.coordinator.publisher import Publisher
from streams.database import schema
from streams.database.engine import insert_new
from streams.release_records import EpochDecision
from streams.releases import candidates
from streams.releases.cache import manifest_key
from streams.releases.candidates import CandidateError
from streams.releases.release import ReleaseError, read_release
from streams.releases.retention import delete_weights, without_weights
from streams.settings import Settings
from tests.support.releases import FakeProducer, RunHarness, changed, learnt, retrained, some_nets

LATER = 2**60  # wall clock: no ranking that the topics had is there any more


@pytest.fixture
def harness(settings: Settings) -> RunHarness:
    """A run of ten epochs: releases 3, 6 and 9 are retrains, the others but release 0 the learner's."""
    harness = RunHarness.of(settings, dim=8, retrain_every=3, learner_delay=0, retrain_delay=0)
    nets, catalogue = some_nets(harness.settings, 5, seed=1)
    harness.act()
    for epoch in range(10):
        harness.record(epoch)
        nets = changed(nets, [epoch % 5 + 2])
        harness.propose("learner", epoch, learnt(some_nets(harness.settings, 5 if epoch > 2 else 0, seed=epoch)[0]))
        if epoch % 3 == 2:
            harness.propose("retrain", epoch, retrained(nets, catalogue))
        harness.act()
    assert [d.release for d in harness.decisions()] == list(range(1, 11)), harness.decisions()
    return harness


def ranked_by(harness: RunHarness, release: int) -> None:
    """Record a click that was ranked by a release."""
    row = {c.name: b"" if isinstance(c.type, sa.LargeBinary) else 0 for c in schema.outcomes.columns if not c.nullable}
    row |= {"run": harness.settings.run, "user": "u", "slate": "", "ranks": {}, "release": release, "seq": release}
    with harness.engine.begin() as connection:
        insert_new(connection, schema.outcomes, [row])


def trimmed(harness: RunHarness, newest: int, now: int = LATER) -> dict[str, int]:
    with harness.engine.begin() as connection:
        return delete_weights(connection, harness.settings, newest, now)


def test_weights_that_nothing_asks_for_are_deleted_and_the_others_stay_as_they_were(harness: RunHarness) -> None:
    run = harness.settings.run
    with harness.engine.connect() as connection:
        before = {version: read_release(connection, run, version) for version in range(11)}
    ranked_by(harness, 8)
    assert trimmed(harness, newest=2)["release_parts"] > 0
    with harness.engine.connect() as connection:
        assert without_weights(connection, run) == {0, 1, 2}, (
            "a retrain of epoch 8 may start from release 4, an evaluation without the learner from 3"
        )
        for version in range(3, 11):
            again = read_release(connection, run, version)
            assert again.manifest == before[version].manifest
            assert np.array_equal(again.nets.encoder.E.detach(), before[version].nets.encoder.E.detach())
        for version in range(3):
            with pytest.raises(ReleaseError, match=f"release {version} were deleted by `mc2sf runs trim`"):
                read_release(connection, run, version)
        items = connection.execute(sa.select(schema.item_embeddings.c.encoder)).scalars().all()
    assert min(items) < 3 < max(items), "a row that no retrain changed since is also that of release 3"
    assert trimmed(harness, newest=2) == {"release_parts": 0, "item_embeddings": 0}


def test_no_weights_are_deleted_that_may_still_be_asked_for(harness: RunHarness) -> None:
    none = {"release_parts": 0, "item_embeddings": 0}
    assert trimmed(harness, newest=11) == none, "as many releases are asked for"
    assert trimmed(harness, newest=1, now=0) == none, "the topics have rankings by all of them"
    ranked_by(harness, 0)
    assert trimmed(harness, newest=1) == none, "a kept click was ranked by the oldest"


def test_a_run_goes_on_after_its_old_weights_were_deleted(harness: RunHarness) -> None:
    trimmed(harness, newest=1)
    run = harness.settings.run
    with harness.engine.begin() as connection:
        with pytest.raises(CandidateError, match="weights of release 1 were deleted"):
            candidates.request_rollback(connection, run, 1)
        candidates.request_rollback(connection, run, 9)
    coordinator = harness.coordinator()
    harness.record(10)
    harness.propose("learner", 10, None)
    harness.act(coordinator)
    with harness.engine.connect() as connection:
        restored, original = read_release(connection, run, 11), read_release(connection, run, 9)
    assert restored.manifest.kind == "rollback"
    assert restored.manifest.embeddings == original.manifest.embeddings


def test_compacted_topics_do_not_grow_with_the_number_of_releases_and_epochs(settings: Settings) -> None:
    producer = FakeProducer()
    publisher = Publisher(settings, producer)
    for epoch in range(600):
        publisher.decide(EpochDecision(epoch, 0, "unchanged", ""), [])
    assert len({key for _, key, _ in producer.sent}) < 300
    assert len({manifest_key(version) for version in range(600)}) < 100
