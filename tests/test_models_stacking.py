"""Item neighbours, and mc2sf as a weighted sum: what they are fitted to, and that they start from fast alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.data.catalogue import FIRST_ROW, Catalogue
from models.data.event_kinds import CLICK
from models.data.interaction_log import InteractionLog, click_states
from models.data.item_neighbours import (
    MAX_NEIGHBOURS,
    MIN_NEIGHBOURS,
    RIDGE,
    SHRINKAGE,
    WITHIN_MS,
    ItemNeighbours,
    fit_neighbours,
    max_neighbours,
    with_transitions,
)
from models.data.views import ViewSpec
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.stacking import DECAY, FEATURES, affinity, initial_weights
from models.mc2sf.tiled_scorer import Scorer
from models.training.held_out import HeldOut
from models.training.losses import sampled_softmax
from models.training.minibatches import ClickSource
from models.training.retrain import TrainConfig, retrain
from models.training.stacking import fit_weights, is_supported, neighbours_without

SIZES = NetConfig(dim=8, history_long=8, history_short=4, threshold=3, attention=(8, 4), gate=(8, 4), head=(16, 8))
STACKED = replace(SIZES, stacked=True)
SPEC = ViewSpec(history_long=8, history_short=4, threshold=3)


def clicks_of(users: int, n: int, items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = FIRST_ROW + rng.integers(0, items, users * n)
    return rows, np.repeat(np.arange(users), n), np.tile(np.arange(n) * WITHIN_MS // 3, users)


def walk(users: int, n: int, items: int, seed: int = 0) -> InteractionLog:
    """Return a log in which every user walks through the items in one order, from a random one on."""
    rng = np.random.default_rng(seed)
    keys = (rng.integers(0, items, users)[:, None] + np.arange(n)).ravel() % items + 100
    kinds, zeros = np.full(users * n, CLICK), np.zeros(users * n, np.int64)
    times = np.tile(np.arange(n) * 1000, users) + np.repeat(np.arange(users), n)
    return InteractionLog(np.arange(0, users * n + 1, n), keys, kinds, times, zeros, np.tile(np.arange(n) // 5, users))


def test_weights_of_neighbours_equal_those_counted_and_solved_one_by_one() -> None:
    rows, users, times = clicks_of(40, 12, 20)
    size = FIRST_ROW + 20
    found = fit_neighbours(rows, users, times, size)
    seen = np.zeros((40, size))
    seen[users, rows] = 1
    inverse = np.linalg.inv(seen.T @ seen + RIDGE * np.eye(size))
    ease = np.maximum(-inverse / np.diag(inverse), 0)
    np.fill_diagonal(ease, 0)
    followed = np.zeros((size, size))
    for i in range(len(rows)):
        for j in range(i + 1, min(i + 6, len(rows))):
            if users[i] == users[j] and times[j] - times[i] <= WITHIN_MS:
                followed[rows[i], rows[j]] += 1
    counts = np.bincount(rows, minlength=size) + SHRINKAGE
    followed /= np.sqrt(np.outer(counts, counts))
    dense = np.zeros((size, size, 2))
    for row in range(size):
        np.add.at(dense[row], found.rows[row], found.weights[row].astype(np.float64))
    np.testing.assert_allclose(dense, np.stack([ease, followed], -1), atol=1e-3)
    assert (found.weights[:FIRST_ROW] == 0).all()


def test_an_item_keeps_as_many_neighbours_as_there_is_room_for() -> None:
    items = 4 * MAX_NEIGHBOURS
    low, high = MIN_NEIGHBOURS, MAX_NEIGHBOURS
    assert [max_neighbours(size) for size in (1, items, 4096, 10**6)] == [high, high, 128, low]
    rows = FIRST_ROW + np.concatenate([np.arange(items), np.zeros(3 * MAX_NEIGHBOURS, np.int64)])
    rows[items + 1 :: 2] = FIRST_ROW + 1 + np.arange(len(rows[items + 1 :: 2]))  # item 0 and another one, in turn
    found = fit_neighbours(rows, np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64), FIRST_ROW + items)
    assert (found.rows[FIRST_ROW] > 0).all()
    assert len(set(found.rows[FIRST_ROW].tolist())) == MAX_NEIGHBOURS


def test_clicks_of_nobody_have_no_neighbours() -> None:
    none = np.zeros(0, np.int64)
    found = fit_neighbours(none, none, none, 5)
    assert not found.rows.any()
    assert not found.weights.any()


def test_transitions_counted_anew_are_those_of_all_clicks_and_the_weights_of_ease_stay() -> None:
    rows, users, times = clicks_of(40, 12, 20)
    half = np.arange(12 * 40) % 12 < 6
    before = fit_neighbours(rows[half], users[half], times[half], FIRST_ROW + 20)
    after = with_transitions(before, rows, users, times)
    whole = fit_neighbours(rows, users, times, FIRST_ROW + 20)

    def dense(found: ItemNeighbours) -> np.ndarray:
        values = np.zeros((FIRST_ROW + 20, FIRST_ROW + 20, 2), np.float32)
        for row in range(FIRST_ROW, len(values)):
            np.add.at(values[row], found.rows[row], found.weights[row])
        return values

    assert np.array_equal(dense(after)[:, :, 0], dense(before)[:, :, 0])
    assert np.array_equal(dense(after)[:, :, 1], dense(whole)[:, :, 1])
    assert not np.array_equal(dense(before)[:, :, 1], dense(whole)[:, :, 1])


def test_the_affinity_of_a_candidate_decays_with_the_age_of_the_click_and_repeats_add_up() -> None:
    near = ItemNeighbours.empty(6)
    near.rows[2, :2], near.weights[2, :2] = (3, 4), ((0.5, 1.0), (0.25, 2.0))
    near.rows[3, 0], near.weights[3, 0] = 4, (4.0, 8.0)
    ease, followed = affinity(near, np.array([0, 2, 3, 2]), np.array([3, 4, 5, 0]))
    assert ease.tolist() == pytest.approx([0.5 * (1 + DECAY**2), 0.25 * (1 + DECAY**2) + 4 * DECAY, 0, 0])
    assert followed.tolist() == pytest.approx([1 + DECAY**2, 2 * (1 + DECAY**2) + 8 * DECAY, 0, 0])


def test_few_clicks_hardly_move_the_weights_and_many_find_those_that_generated_them() -> None:
    rng, truth = np.random.default_rng(1), torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0], dtype=torch.float64)
    features = torch.from_numpy(rng.standard_normal((1500, 20, len(FEATURES))))
    chosen = (features @ truth + torch.from_numpy(rng.gumbel(size=(1500, 20)))).argmax(1)
    first = features[torch.arange(1500), chosen].clone()
    features[torch.arange(1500), chosen] = features[:, 0]
    features[:, 0] = first
    start = initial_weights()
    assert fit_weights(features[:0], start, sampled_softmax).equal(start)
    few = fit_weights(features[:3], start, sampled_softmax)
    assert (few / few[1] - start).abs().max() < 0.6  # the multiple is nearly free
    assert torch.allclose(fit_weights(features, start, sampled_softmax).double(), truth, atol=0.2)


def test_nets_that_are_too_sure_shrink_together_and_are_not_outweighed_by_their_own_negative() -> None:
    """S2F and fast are nearly equal and ten times too large, EASE is small: only the ratios of weights rank."""
    rng = np.random.default_rng(2)
    sure, own = rng.standard_normal((2, 800, 20))
    chosen = (sure + own + rng.gumbel(size=sure.shape)).argmax(1)
    features = np.zeros((800, 20, len(FEATURES)))
    features[..., 0], features[..., 1] = (10 * sure + 0.1 * rng.standard_normal((2, 800, 20)))[:]
    features[..., 3] = 0.1 * own
    order = np.argsort(np.arange(20) != chosen[:, None], axis=1, kind="stable")
    features = np.take_along_axis(features, order[..., None], 1)
    found = fit_weights(torch.from_numpy(features), initial_weights(), sampled_softmax)
    assert found[0] > -0.03
    assert float(found[0] + found[1]) == pytest.approx(0.1, abs=0.03)
    assert float(found[3]) == pytest.approx(10.0, abs=2.5)


def clicks_by_fast_and_transitions(weight: float, present: float, seed: int, clicks: int = 400) -> torch.Tensor:
    """Return features of clicks that follow fast and, times `weight`, transitions, which so many candidates have."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((clicks, 20, len(FEATURES)))
    features[..., FEATURES.index("ease") :] = 0
    features[..., -1] = 0.005 * (rng.random((clicks, 20)) < present)
    chosen = (features[..., 1] + weight * features[..., -1] + rng.gumbel(size=(clicks, 20))).argmax(1)
    order = np.argsort(np.arange(20) != chosen[:, None], axis=1, kind="stable")
    return torch.from_numpy(np.take_along_axis(features, order[..., None], 1))


def test_a_weight_is_not_negative_and_that_of_a_feature_that_most_candidates_lack_is_not_free() -> None:
    for seed in range(3):
        nothing = clicks_by_fast_and_transitions(0.0, 0.004, seed)
        found = fit_weights(nothing, initial_weights(), sampled_softmax)
        assert (found >= 0).all()
        assert float(found[-1]) * 0.005 < 0.5
    helpful = clicks_by_fast_and_transitions(400.0, 0.1, 1)
    assert fit_weights(helpful, initial_weights(), sampled_softmax)[-1] > 200


@pytest.mark.slow
def test_what_the_cloud_adds_needs_evidence_and_goes_when_there_is_none() -> None:
    nothing = [clicks_by_fast_and_transitions(0.0, 0.1, seed, 80) for seed in range(12)]
    helpful, before = clicks_by_fast_and_transitions(400.0, 0.1, 1, 200), initial_weights()
    of, wrong, little = np.arange(200) % 40, before.clone(), before.clone()
    wrong[-1], little[-1] = 600, 30
    assert is_supported(helpful, of, before, sampled_softmax)
    assert is_supported(helpful, np.zeros_like(of), before, sampled_softmax), "clicks count if all are of one user"
    assert is_supported(helpful[:80], of[:80], fit_weights(helpful, before, sampled_softmax), sampled_softmax)
    assert sum(is_supported(each, of[:80], before, sampled_softmax) for each in nothing) <= 2
    assert not any(is_supported(each, of[:80], wrong, sampled_softmax) for each in nothing[:4])
    little_of = sum(is_supported(each, of[:80], little, sampled_softmax) for each in nothing)
    assert little_of <= 7, "nearly always if each click were scored by weights that are fitted to it"
    assert not is_supported(helpful[:0], of[:0], before, sampled_softmax)


def test_weights_that_lower_the_loss_but_rank_worse_do_not_replace_fast_alone() -> None:
    by_fast, s2f = np.zeros((200, 20)), np.zeros((200, 20))
    by_fast[:100, 0] = 3.0  # half of the clicks are ranked first by fast
    by_fast[90:100, 1], s2f[90:100, 1] = 2.9, 1.0  # of which S2F would rank ten second
    by_fast[100:, 1:12], s2f[100:, :12] = 2.0, 1.0  # the others are raised by S2F, but never among the first ten
    features = np.zeros((200, 20, len(FEATURES)))
    features[..., FEATURES.index("s2f")], features[..., FEATURES.index("fast")] = s2f, by_fast
    shuffled = torch.from_numpy(np.random.default_rng(1).permutation(features))
    assert fit_weights(shuffled, initial_weights(), sampled_softmax)[0] > 0.2
    assert not is_supported(shuffled, np.arange(200) % 40, initial_weights(), sampled_softmax)


def test_before_the_first_retrain_mc2sf_is_fast_alone() -> None:
    scorer, rng = Scorer(Nets.initial(STACKED, 30, 1)), np.random.default_rng(2)
    clicks, shown, candidates = rng.integers(2, 30, 4), rng.integers(2, 30, 4), rng.integers(2, 30, 70)
    slow = scorer.slow(clicks, np.ones(8, np.float32), candidates)
    fast = scorer.fast(clicks, shown, candidates, slow.r_t, slow.r_n, f2s=slow.f2s)
    assert np.array_equal(fast.mc2sf, fast.fast)


def test_a_retrain_learns_what_follows_what_and_lowers_the_loss_of_mc2sf() -> None:
    log = walk(60, 20, 40)
    result = retrain(
        Nets.initial(STACKED, FIRST_ROW, 1), Catalogue([]), log, config=TrainConfig(passes=1), spec=SPEC, seed=1
    )
    nets, rows = result.nets, result.catalogue.rows(np.arange(100, 140))
    following = torch.from_numpy(np.roll(rows, -1)[:, None])
    _, followed = nets.fast.neighbours.affinities(torch.from_numpy(rows[:, None]), following)
    assert (followed > 0.3).all()
    weights = dict(zip(FEATURES, nets.fast.stack.tolist(), strict=True))
    assert weights["transitions"] + weights["ease"] > 0.5
    source = ClickSource.from_states(click_states(log, SPEC), result.catalogue)
    some, alone = np.arange(0, 1200, 7), nets.grown(len(nets.encoder.E), 1)
    alone.fast.stack.copy_(initial_weights())
    losses = [HeldOut.draw(source, some, 1, each.fast.neighbours).losses(each).mean() for each in (nets, alone)]
    assert losses[0] < losses[1] - 0.02


def test_a_stack_is_not_fitted_to_a_few_held_out_clicks() -> None:
    for few in (50, 500):
        config = TrainConfig(passes=1, held_out=0.4, held_out_min=few)
        made = retrain(
            Nets.initial(STACKED, FIRST_ROW, 1), Catalogue([]), walk(30, 20, 40), config=config, spec=SPEC, seed=1
        )
        assert torch.equal(made.nets.fast.stack, initial_weights()) == (few == 500)  # of 600 clicks half at most


def test_clicks_held_out_are_unknown_to_the_neighbours() -> None:
    log = walk(30, 20, 40)
    catalogue = Catalogue(np.unique(log.keys))
    source = ClickSource.from_states(click_states(log, SPEC), catalogue)
    assert not neighbours_without(source, np.arange(len(source.targets))).rows.any()


def test_a_retrain_judges_with_neighbours_that_do_not_know_the_held_out_clicks() -> None:
    log, rng = walk(30, 20, 40), np.random.default_rng(1)
    log = replace(log, keys=100 + rng.integers(0, 40, len(log.keys)))  # nothing can be learnt
    given = Nets.initial(STACKED, FIRST_ROW, 1)
    first = retrain(given, Catalogue([]), log, config=TrainConfig(passes=1), spec=SPEC, seed=1)
    assert first.nets.fast.stack.equal(initial_weights()), "mc2sf is fast alone"
    known = first.nets.grown(first.catalogue.size, 1)
    rows = first.catalogue.rows(log.keys)
    known.fast.neighbours.replace(fit_neighbours(rows, log.users, log.times, first.catalogue.size))
    known.fast.stack.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0, 9.0]))
    again = retrain(known, first.catalogue, log, config=TrainConfig(passes=1), spec=SPEC, seed=1)
    assert again.active > np.log(10), "as good as chance or worse: the transitions of the held-out clicks are unknown"
    assert again.nets.fast.stack[4] < 3, "weights without support do not stay"


def test_items_that_are_new_have_no_neighbours_and_those_of_others_stay() -> None:
    nets = Nets.initial(STACKED, 10, 1)
    neighbours = ItemNeighbours.empty(11)  # the last one has no row in E, and a retrain gives it another one
    neighbours.rows[3, :2], neighbours.weights[3, :2] = (4, 10), 0.5
    nets.fast.neighbours.replace(neighbours, np.array([77]))
    grown = nets.grown(12, 1).fast.neighbours
    assert grown.rows[3, :2].tolist() == [4, 0]
    assert grown.weights[3, :2, 0].tolist() == [0.5, 0]
    assert (grown.rows.count_nonzero(), len(grown.rows), len(grown.keys)) == (1, 12, 0)
