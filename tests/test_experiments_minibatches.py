from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.experiments.data.protocol import Phase
from deploy.experiments.training.hyperparameters import Hyperparameters
from deploy.experiments.training.minibatches import of_lists, of_sequences
from models.data.catalogue import ROW_PADDING
from models.data.event_kinds import CLICK
from models.training import losses
from models.training.objectives import ListBatch, SequenceBatch
from tests.support.experiments import QUICK, SMALL, dataset

BOTH = (Phase.SLOW, Phase.FAST)


def test_an_epoch_holds_every_click_of_its_phases_once(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    for some in (BOTH, (Phase.FAST,)):
        epoch = of_lists(data, SMALL, QUICK, some)
        targets = np.concatenate(
            [b.items[:, 0].numpy() for b in epoch(0, np.random.default_rng(0)) if isinstance(b, ListBatch)]
        )
        assert sorted(targets.tolist()) == sorted(data.log.keys[data.clicks(*some)].tolist())


def test_epochs_differ_and_the_same_generator_gives_the_same(tmp_path: Path) -> None:
    epoch = of_lists(dataset(tmp_path), SMALL, QUICK, BOTH)

    def items(seed: int) -> list[list[int]]:
        return [
            row for b in epoch(0, np.random.default_rng(seed)) if isinstance(b, ListBatch) for row in b.items.tolist()
        ]

    assert items(1) == items(1)
    assert items(1) != items(2)


def test_what_the_user_had_is_hidden_and_what_he_has_only_in_validation_or_test_is_not(tmp_path: Path) -> None:
    """A negative that were left out because it comes up in the test would tell the test."""
    data = dataset(tmp_path, replace(SMALL, minimum=5), clicks=16)
    first = {user: data.clicks(Phase.VALIDATION)[user] for user in range(len(data.users))}
    hits = 0
    for batch in of_lists(data, SMALL, QUICK, BOTH)(0, np.random.default_rng(0)):
        assert isinstance(batch, ListBatch)
        for user, items, hidden in zip(
            batch.queries.users.tolist(), batch.items.numpy(), batch.hidden.numpy(), strict=True
        ):
            mine = (data.log.users == user) & data.interacted & (np.arange(len(data.log.keys)) < first[user])
            had = np.isin(items, data.log.keys[mine])
            assert not hidden[0]
            assert np.array_equal(had[1:], hidden[1:])
            later = (data.log.users == user) & data.interacted & (np.arange(len(data.log.keys)) >= first[user])
            hits += int((np.isin(items[1:], data.log.keys[later]) & ~hidden[1:]).sum())
    assert hits


def test_log_q_is_how_often_an_item_is_drawn(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    params = replace(QUICK, power=0.7, negatives=200)
    counts = np.zeros(data.rows)
    batches = [b for e in range(3) for b in of_lists(data, SMALL, params, BOTH)(e, np.random.default_rng(e))]
    log_q = np.zeros(data.rows)
    rows = 0
    for batch in batches:
        assert isinstance(batch, ListBatch)
        drawn = batch.items[:, 1:].numpy()
        np.add.at(counts, drawn, 1)
        log_q[drawn] = batch.log_q[:, 1:].numpy()
        rows += len(drawn)
    seen = counts > 100
    np.testing.assert_allclose(counts[seen] / rows, np.exp(log_q[seen]), rtol=0.35)
    assert seen.sum() > 20


@pytest.mark.parametrize("params", [replace(QUICK, corrected=False), replace(QUICK, loss=losses.bce)])
def test_only_the_softmax_is_corrected_for_how_negatives_are_drawn(tmp_path: Path, params: Hyperparameters) -> None:
    for batch in of_lists(dataset(tmp_path), SMALL, params, BOTH)(0, np.random.default_rng(0)):
        assert isinstance(batch, ListBatch)
        assert not batch.log_q.any()


# sequences ----------------------------------------------------------------------------------------------------------


def sequences(
    folder: Path, params: Hyperparameters, some: tuple[Phase, ...], epochs: int = 1
) -> tuple[list[SequenceBatch], list[list[int]]]:
    data = dataset(folder)
    epoch = of_sequences(data, params, some, length=8)
    walks = [
        data.log.keys[(data.log.users == user) & (data.log.kinds == CLICK)].tolist() for user in range(len(data.users))
    ]
    return [b for e in range(epochs) for b in epoch(e, np.random.default_rng(e)) if isinstance(b, SequenceBatch)], walks


@pytest.mark.parametrize("block", [1, 4])
def test_a_place_s_target_is_the_click_up_to_block_places_later(tmp_path: Path, block: int) -> None:
    batches, walks = sequences(tmp_path, replace(QUICK, block=block), (Phase.SLOW,))
    text = [" ".join(map(str, walk[:20])) for walk in walks]
    found = 0
    for batch in batches:
        for row, targets in zip(batch.sequences.tolist(), batch.targets.tolist(), strict=True):
            real = [item for item in row if item != ROW_PADDING]
            assert any(" ".join(map(str, real)) in walk for walk in text)
            for place, target in enumerate(targets):
                if target == ROW_PADDING:
                    continue
                found += 1
                ahead = [walk.index(target) - walk.index(row[place]) for walk in walks if row[place] in walk]
                assert any(step % 19 in range(1, block + 1) for step in ahead)
    assert found > 100


def test_only_clicks_of_the_phases_are_targets_and_none_of_validation_or_test(tmp_path: Path) -> None:
    batches, walks = sequences(tmp_path, replace(QUICK, block=1), (Phase.FAST,), epochs=3)
    wanted = {(walk[i - 1], walk[i]) for walk in walks for i in range(20, 24)}
    got = {
        (row[place], target)
        for batch in batches
        for row, targets in zip(batch.sequences.tolist(), batch.targets.tolist(), strict=True)
        for place, target in enumerate(targets)
        if target != ROW_PADDING
    }
    assert got == wanted
