"""Online learning of the fast part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.data.item_neighbours import ItemNeighbours, max_neighbours
from models.data.item_statistics import BUCKETS
from models.mc2sf.checkpoint import CheckpointError
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.tiled_scorer import Scorer
from models.training.online import FastBatchExample, FastLearner, losses
from models.training.retrain import TrainConfig

SIZES = NetConfig(dim=8, history_long=8, history_short=4, attention=(8, 4), gate=(8, 4), head=(16, 8))
CONFIG = TrainConfig(batch=32, learning_rate=5e-3)
ROWS = 60


def nets() -> Nets:
    return Nets.initial(SIZES, ROWS, 1)


def examples(n: int, seed: int = 0) -> list[FastBatchExample]:
    """Return examples whose clicked item is in the half of the catalogue that the user's last clicks are in."""
    rng, listed = np.random.default_rng(seed), []
    for _ in range(n):
        low, high = rng.permutation([[2, 31], [31, ROWS]])
        priors = rng.standard_normal((2, 5, 8)).astype(np.float16)
        items = np.concatenate([rng.integers(*low, 1), rng.integers(*high, 4)])
        clicks, exposures = rng.integers(*low, rng.integers(1, 7)), rng.integers(*high, rng.integers(0, 7))
        listed.append(
            FastBatchExample(
                clicks=clicks,
                exposures=exposures,
                items=items,
                r_t=priors[0],
                r_n=priors[1],
                item_statistics=rng.integers(0, BUCKETS, (5, 3), np.uint8),
                f2s=rng.standard_normal(5).astype(np.float32),
                near=(rng.integers(0, ROWS + 5, 7), rng.integers(0, ROWS + 5, 5)),
            )
        )
    return listed


def test_what_can_be_learnt_is_learnt() -> None:
    given = nets()
    with torch.no_grad():  # a retrain has put the halves apart; what that means is left to the fast part
        given.encoder.E[2:31, 0] += 1
        given.encoder.E[31:, 0] -= 1
    learner, unseen = FastLearner(given, CONFIG, 1), examples(200, seed=7)
    before = losses(given, unseen).mean()
    for epoch in range(8):
        learner.learn(examples(500, seed=epoch))
    assert learner.learnt == 4000
    assert losses(learner.nets, unseen).mean() < before - 0.3


def test_only_the_fast_part_of_a_copy_moves() -> None:
    given = nets()
    before = {name: w.clone() for name, w in given.state_dict().items()}
    learner = FastLearner(given, CONFIG, 1)
    learner.learn(examples(50))
    assert all(torch.equal(w, before[name]) for name, w in given.state_dict().items())
    moved = {name.split(".")[0] for name, w in learner.nets.state_dict().items() if not torch.equal(w, before[name])}
    assert moved == {"fast"}


@pytest.mark.parametrize("stacked", [False, True])
def test_the_losses_are_those_of_the_scores_that_serving_gives(stacked: bool) -> None:
    given, rng = Nets.initial(replace(SIZES, stacked=stacked), ROWS, 1), np.random.default_rng(4)
    with torch.no_grad():
        given.encoder.standing.normal_(generator=torch.Generator().manual_seed(3))
    if stacked:
        found = ItemNeighbours.empty(ROWS + 5)
        found.rows[2:] = rng.integers(2, ROWS + 5, (ROWS + 3, max_neighbours(ROWS + 5)))
        found.weights[2:] = rng.random((ROWS + 3, max_neighbours(ROWS + 5), 2))
        given.fast.neighbours.replace(found, np.arange(900, 905))
        given.fast.stack.copy_(torch.tensor([0.3, 0.5, 0.2, 0.7, -0.4]))
    scorer, listed, expected = Scorer(given), examples(70), []
    for each in listed:
        received = each.r_t, each.r_n, each.item_statistics, each.f2s, each.near
        values = scorer.fast(each.clicks, each.exposures, each.items, *received).mc2sf.astype(np.float64)
        expected.append(np.log(np.exp(values).sum()) - values[0])
    assert losses(given, listed) == pytest.approx(np.array(expected), rel=1e-5)
    assert not len(losses(given, []))


def test_after_a_restart_it_learns_as_if_it_had_not_learnt_before() -> None:
    learner, fresh = FastLearner(nets(), CONFIG, 1), FastLearner(nets(), CONFIG, 1)
    learner.learn(examples(70, seed=3))
    learner.restart(nets())
    fresh.learnt = learner.learnt  # which decides the order of the examples only
    for each in (learner, fresh):
        each.learn(examples(70))
    assert learner.state() == fresh.state()


def test_a_learner_restored_from_its_state_gives_the_same_result() -> None:
    one, other = FastLearner(nets(), CONFIG, 1), FastLearner(nets(), CONFIG, 1)
    one.learn(examples(70))
    state = one.state()
    other.learn(examples(30, seed=5))  # forgotten by loading
    other.load(state)
    assert other.state() == state
    for learner in (one, other):
        learner.learn(examples(70, seed=2))
    assert one.state() == other.state() != state


def test_a_fresh_state_loads_too_and_the_same_seed_learns_the_same() -> None:
    one, other = FastLearner(nets(), CONFIG, 1), FastLearner(nets(), CONFIG, 1)
    other.learn(examples(30))
    other.load(one.state())
    for learner in (one, other):
        learner.learn(examples(70))
    assert one.state() == other.state()
    another = FastLearner(nets(), CONFIG, 2)
    another.learn(examples(70))
    assert another.state() != one.state()


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    learner = FastLearner(nets(), CONFIG, 1)
    learner.learn(examples(40))
    before = learner.state()
    wide = NetConfig(dim=8, history_long=8, history_short=4, attention=(8, 4), gate=(8, 4), head=(32, 8))
    for bad in (b"", b"\0" * 64, before[:-9], FastLearner(Nets.initial(wide, ROWS, 1), CONFIG, 1).state()):
        with pytest.raises(CheckpointError):
            learner.load(bad)
        assert learner.state() == before
