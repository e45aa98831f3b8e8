from __future__ import annotations

import threading

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Engine

from models.data.catalogue import Catalogue
from streams.database import run_state, schema
from streams.database.engine import connect, copy_new
from streams.database.interaction_log import Interactions
from streams.releases import candidates
from streams.releases.candidates import ReleaseCandidate, unpack
from streams.releases.release import read_release
from streams.releases.retrain_schedule import next_retrain, retrain_due
from streams.retrain import job
from streams.retrain.job import Retrain
from streams.settings import Settings
from tests.support.hangs import SlowHealth
from tests.support.releases import RunHarness, learnt, some_nets

USERS, ITEMS, PER_EPOCH = 12, 30, 25


def few(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"dim": 8, "history_long": 10, "history_short": 4, "threshold": 4, "retrain_every": 2, "batch": 16}
    )


@pytest.fixture
def harness(settings: Settings) -> RunHarness:
    return RunHarness.of(few(settings))


def interactions(run: str, epochs: range) -> list[tuple[object, ...]]:
    """Rows of `interactions`: in each epoch every user sees and clicks; later epochs bring later items.

    All that is clicked is one of six items: so much is learnt from a few clicks.
    """
    rows = []
    for epoch in epochs:
        for number in range(USERS):
            user = f"u{number}"
            chance = np.random.default_rng([epoch, number])
            for i in range(PER_EPOCH):
                shown = (number + 3 * i + int(chance.integers(0, 3))) % min(ITEMS, 10 * (epoch + 1))
                item = 1000 + (shown if i % 3 else shown % 6)
                time = epoch * 1_000_000 + i * 1000 + number
                rows.append((run, epoch, user, epoch * PER_EPOCH + i, item, int(i % 3 == 0), time, time, 0))
    return rows


def record(harness: RunHarness, epochs: range, *, over: bool = False) -> None:
    rows = interactions(harness.settings.run, epochs)
    np.random.default_rng(0).shuffle(rows)
    with harness.engine.begin() as connection:
        copy_new(connection, schema.interactions, rows)
    harness.record(epochs[-1], over=over)


def loaded(engine: Engine, run: str, *epochs: int | None, most: int | None = None) -> Interactions:
    log = Interactions(run, most)
    with engine.connect() as connection:
        for epoch in epochs:
            log.load(connection, epoch)
    return log


def test_rows_loaded_epoch_by_epoch_give_the_same_log_as_all_at_once(harness: RunHarness) -> None:
    record(harness, range(4))
    run = harness.settings.run
    whole, steps = loaded(harness.engine, run, 3), loaded(harness.engine, run, 0, 2, 2, 3)
    assert whole.keys.tolist() == steps.keys.tolist()
    for name in ("offsets", "keys", "kinds", "times", "impressions", "epochs"):
        assert getattr(whole.log(), name).tolist() == getattr(steps.log(), name).tolist()


def test_the_log_has_each_users_events_in_order_and_the_users_by_name(harness: RunHarness) -> None:
    record(harness, range(2))
    log = loaded(harness.engine, harness.settings.run, 1).log()
    rows = sorted((str(row[2]), row[3], row[4], row[5], row[6], row[1]) for row in interactions("", range(2)))
    assert list(zip(log.keys.tolist(), log.kinds.tolist(), log.times.tolist(), log.epochs.tolist(), strict=True)) == [
        row[2:] for row in rows
    ]
    assert log.offsets.tolist() == [i * 2 * PER_EPOCH for i in range(USERS + 1)]


def test_later_epochs_are_left_out(harness: RunHarness, database_url: str) -> None:
    harness = RunHarness(harness.settings, connect(database_url))
    record(harness, range(4))
    assert loaded(harness.engine, harness.settings.run, 1).log().epochs.max() == 1
    harness.engine.dispose()


def statistics(log: Interactions) -> NDArray[np.uint8]:
    """Return the statistics of all items as the last epoch began."""
    statistics = log.log().item_statistics(Catalogue(log.keys))
    rows = Catalogue(log.keys).rows(log.keys)
    return statistics.buckets_of(rows, np.full(len(rows), log.log().epochs.max()))


def test_in_a_long_run_the_newest_epochs_are_kept_and_all_users_and_items_stay_known(harness: RunHarness) -> None:
    record(harness, range(4))
    run = harness.settings.run
    size = USERS * PER_EPOCH
    assert (
        loaded(harness.engine, run, None).log().epochs.tolist() == loaded(harness.engine, run, 3).log().epochs.tolist()
    )
    for most, kept in ((10, {3}), (2 * size - 1, {3}), (2 * size, {2, 3}), (9 * size, {0, 1, 2, 3})):
        whole, steps = (loaded(harness.engine, run, *epochs, most=most) for epochs in ((3,), (0, 2, 2, 3)))
        assert set(whole.log().epochs.tolist()) == kept
        assert len(whole) == size * len(kept)
        assert whole.log().keys.tolist() == steps.log().keys.tolist()
        assert whole.users() == loaded(harness.engine, run, 3).users()
        assert len(whole.log().offsets) == USERS + 1
        assert whole.keys.tolist() == loaded(harness.engine, run, 3).keys.tolist()
        for each in (whole, steps):
            assert statistics(each).tolist() == statistics(loaded(harness.engine, run, 3)).tolist()


def test_items_are_in_order_of_their_first_appearance(harness: RunHarness) -> None:
    record(harness, range(3))
    rows = sorted(interactions("", range(3)), key=lambda row: (row[7], str(row[2]), row[3]))
    assert loaded(harness.engine, harness.settings.run, 2).keys.tolist() == list(dict.fromkeys(row[4] for row in rows))


def made(harness: RunHarness, epoch: int) -> ReleaseCandidate:
    return Retrain(harness.settings, harness.engine).make(epoch)


def test_it_starts_from_the_release_of_its_epoch_however_far_the_stream_has_gone_on(harness: RunHarness) -> None:
    harness = harness.changed(retrain_delay=1)
    acting = harness.coordinator()
    for epoch in range(2):
        record(harness, range(epoch, epoch + 1))
        nets, _ = some_nets(harness.settings, 0, seed=epoch)
        harness.propose("learner", epoch, learnt(nets))
        harness.act(acting)
    assert [d.release for d in harness.decisions()] == [1, 2]
    assert Retrain(harness.settings, harness.engine).due() == 1
    assert made(harness, 1).parent == 1


def test_it_learns_and_new_items_get_rows_after_the_old_ones(harness: RunHarness) -> None:
    acting = harness.coordinator()
    harness.act(acting)
    catalogues = []
    for epoch in range(4):
        record(harness, range(epoch, epoch + 1))
        harness.propose("learner", epoch, None)
        if retrain_due(harness.settings, epoch):
            proposal = made(harness, epoch)
            assert proposal.quality["candidate"] < proposal.quality["active"]
        harness.act(acting)
        with harness.engine.connect() as connection:
            version = run_state.active_release(connection, harness.settings.run)
            assert version is not None
            catalogues.append(read_release(connection, harness.settings.run, version).catalogue)
    assert [d.outcome for d in harness.decisions()] == ["unchanged", "retrain", "unchanged", "retrain"]
    first, second = catalogues[1], catalogues[3]
    assert (len(catalogues[0]), len(first), len(second)) == (0, 20, 30)
    assert second.keys[:20].tolist() == first.keys.tolist()


@pytest.mark.slow
def test_the_same_log_gives_the_same_bytes_in_one_process_or_several(harness: RunHarness) -> None:
    found = []
    for run, fresh in (("t-one", False), ("t-each", True)):
        again = harness.changed(run=run)
        acting, process = again.coordinator(), Retrain(again.settings, again.engine)
        again.act(acting)
        for epoch in range(4):
            record(again, range(epoch, epoch + 1))
            again.propose("learner", epoch, None)
            if retrain_due(again.settings, epoch):
                found.append((run, (Retrain(again.settings, again.engine) if fresh else process).make(epoch)))
            again.act(acting)
    one, each = ([p.data for r, p in found if r == run] for run in ("t-one", "t-each"))
    assert one == each
    assert one[0] != one[1]


def test_only_clicks_after_the_encoders_own_training_count_as_new(harness: RunHarness) -> None:
    acting = harness.coordinator()
    harness.act(acting)
    for epoch in range(4):
        record(harness, range(epoch, epoch + 1))
        harness.propose("learner", epoch, None)
        if epoch == 1:
            first = made(harness, epoch)
        harness.act(acting)
        if epoch == 1:
            with harness.engine.begin() as connection:
                candidates.request_rollback(connection, harness.settings.run, 0)
        if epoch == 2:
            assert harness.decisions()[-1].outcome == "rollback"
            with harness.engine.begin() as connection:
                candidates.request_rollback(connection, harness.settings.run, 1)
    with harness.engine.connect() as connection:
        since = job._trained_until(connection, harness.settings.run, 2)
        assert since is None, "release 2 brought the initial encoder back"
    harness.propose("retrain", 3, None)
    harness.act(acting)
    with harness.engine.connect() as connection:
        assert job._trained_until(connection, harness.settings.run, 3) == first.trained_until


def test_in_lockstep_each_retrain_is_made_once_the_epoch_before_it_is_decided(harness: RunHarness) -> None:
    process = Retrain(harness.settings, harness.engine)
    acting = harness.coordinator()
    assert process.due() is None
    harness.act(acting)
    record(harness, range(4))
    assert process.due() is None, "epoch 0 is not decided yet"
    harness.propose("learner", 0, None)
    harness.act(acting)
    assert process.due() == 1
    process.make(1)
    assert process.due() is None


def test_free_running_only_the_newest_due_retrain_is_made(harness: RunHarness) -> None:
    harness = harness.changed(lockstep=False)
    process = Retrain(harness.settings, harness.engine)
    harness.act()
    record(harness, range(6))
    assert process.due() == 5
    process.make(5)
    assert process.due() is None
    assert not process.is_finished()
    harness.record(6, over=True)
    assert process.is_finished()


def test_the_process_makes_due_retrains_and_ends_with_the_log(harness: RunHarness) -> None:
    harness.act()
    record(harness, range(2))
    harness.propose("learner", 0, None)
    harness.act()
    harness.record(1, over=True)
    job.run(harness.settings, harness.engine, threading.Event())
    assert harness.status("retrain", 1) == "waiting"


def test_a_retrain_that_hangs_in_the_database_is_stuck_and_one_that_trains_long_is_not(harness: RunHarness) -> None:
    harness.act()
    record(harness, range(2))
    harness.propose("learner", 0, None)
    harness.act()
    harness.record(1, over=True)
    health = SlowHealth()
    with health.hanging(harness.engine):
        job.run(harness.settings, harness.engine, threading.Event(), health=health)
    assert harness.status("retrain", 1) == "waiting"
    assert health.in_statements
    assert all(health.in_statements)
    assert health.while_busy == ["", ""]


def test_once_makes_one_retrain_if_free_running(harness: RunHarness) -> None:
    harness = harness.changed(lockstep=False, retrain_every=100)
    harness.act()
    record(harness, range(2))
    job.run(harness.settings, harness.engine, threading.Event(), once=True)
    assert harness.status("retrain", 1) == "waiting"


@pytest.mark.parametrize("every", [1, 2, 20])
def test_the_next_retrain_is_the_first_epoch_at_which_one_is_due(settings: Settings, every: int) -> None:
    settings = settings.model_copy(update={"retrain_every": every})
    for after in range(-1, 50):
        first = next(epoch for epoch in range(after + 1, 100) if retrain_due(settings, epoch))
        assert next_retrain(settings, after) == first


def test_a_candidate_holds_all_parts_of_a_release(harness: RunHarness) -> None:
    harness.act()
    record(harness, range(2))
    entries = unpack(made(harness, 1).data)
    assert set(entries) == {"encoder", "slow", "fast", "E", "keys"}
    assert len(Catalogue(np.frombuffer(entries["keys"], dtype="<i8"))) == 20
    assert len(entries["E"]) == 22 * harness.settings.dim * 4
    with harness.engine.connect() as connection:
        assert connection.execute(sa.select(schema.proposals.c.status)).scalars().all() == ["waiting"]
