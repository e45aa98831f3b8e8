"""The scorer agrees with the naive equations, and a row's result depends on that row only, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.data.catalogue import ROW_PADDING
from models.data.item_neighbours import WEIGHTS, ItemNeighbours, max_neighbours
from models.layers.tiles import TILE
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.tiled_scorer import FastQuery, Scorer, SlowQuery
from streams.model_config import net_config
from streams.settings import Settings
from tests.support.naive_scores import fast_scores, gru, part, priors, slow_scores

ROWS = 500
SMALL = NetConfig(dim=12, history_long=10, history_short=7, threshold=4, slow_product=True)
CONFIGS = [NetConfig(), SMALL, replace(SMALL, symlog_priors=True), replace(SMALL, stacked=True)]
NAMES = ["default", "small", "symlog", "stacked"]


# two threads wait for each other on a busy machine
@pytest.fixture(params=[pytest.param(1, id="one thread"), pytest.param(2, id="two threads", marks=pytest.mark.slow)])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def lively(config: NetConfig) -> Nets:
    nets = Nets.initial(config, ROWS, 3)
    with torch.no_grad():
        for weight in nets.parameters():
            weight.mul_(2)
    if config.floor:
        nets.encoder.repeats.copy_(torch.tensor([0.6, -0.7, 0.8, -0.9]))
    if config.stacked:
        rng = np.random.default_rng(4)
        shape = ROWS, max_neighbours(ROWS)
        near = np.array([rng.choice(ROWS, max_neighbours(ROWS), replace=False) for _ in range(ROWS)], np.int32)
        near[ROW_PADDING] = 0  # padding has no neighbours
        nets.fast.neighbours.replace(ItemNeighbours(near, rng.random((*shape, WEIGHTS)).astype(np.float16)))
        nets.fast.stack.copy_(torch.tensor([0.3, 0.5, 0.2, 0.7, -0.4]))
    return nets


def stacked(nets: Nets, clicks: np.ndarray, candidate: int, *scores: float) -> float:
    """Return mc2sf of one candidate from the scores of S2F, fast alone and F2S, click by click."""
    weights, near = nets.fast.stack.tolist(), nets.fast.neighbours.rows.numpy()
    total = sum(w * score for w, score in zip(weights, scores, strict=False))
    for age, click in enumerate(clicks[::-1][: nets.config.history_short]):
        for place in np.flatnonzero(near[click] == candidate):
            total += 0.8**age * float(nets.fast.neighbours.weights[click, place].float() @ nets.fast.stack[3:])
    return total


def rows(rng: np.random.Generator, most: int) -> np.ndarray:
    return rng.integers(1, ROWS, int(rng.integers(0, most + 1)))


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_scores_equal_the_naive_equations(config: NetConfig) -> None:
    nets = lively(config)
    scorer, rng = Scorer(nets), np.random.default_rng(1)
    w = {name: weight.detach().numpy().astype(np.float64) for name, weight in nets.named_parameters()}
    E = w["encoder.E"]
    for _ in range(5):
        history, clicks, exposures = rows(rng, 70), rows(rng, 15), rows(rng, 15)
        r2, candidates = rng.standard_normal(config.dim).astype(np.float32), rng.integers(1, ROWS, 70)
        slow = scorer.slow(history, r2, candidates)
        fast = scorer.fast(clicks, exposures, candidates, slow.r_t, slow.r_n, f2s=slow.f2s)
        for i in (0, 1, 63, 64, 69):
            e = E[candidates[i]]
            r_t, r_n = priors(w, list(E[history[-config.history_long :]]), r2, e)
            np.testing.assert_allclose(slow.r_t[i], r_t, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(slow.r_n[i], r_n, rtol=1e-3, atol=1e-3)
            assert (slow.din[i], slow.f2s[i]) == pytest.approx(
                slow_scores(w, r_t, r_n, e, product=config.slow_product), rel=1e-4, abs=1e-4
            )
            short = config.history_short
            sent = slow.r_t[i].astype(np.float64), slow.r_n[i].astype(np.float64)
            if config.symlog_priors:
                sent = np.sign(sent[0]) * np.log1p(np.abs(sent[0])), np.sign(sent[1]) * np.log1p(np.abs(sent[1]))
            naive = fast_scores(
                w, list(E[clicks[-short:]]), list(E[exposures[-short:]]), e, *sent, product=config.fast_product
            )
            if config.stacked:
                naive = naive[0], stacked(nets, clicks, candidates[i], naive[1], naive[0], slow.f2s[i])
            assert (fast.fast[i], fast.mc2sf[i]) == pytest.approx(naive, rel=1e-4, abs=1e-4)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_candidates_scores_depend_on_no_other_candidate_and_not_on_its_position(config: NetConfig) -> None:
    scorer, rng = Scorer(lively(config)), np.random.default_rng(2)
    for _ in range(4):
        history, clicks, exposures = rows(rng, 60), rows(rng, 12), rows(rng, 12)
        candidates = rng.integers(1, ROWS, int(rng.integers(1, 200)))
        r2, order = rng.standard_normal(config.dim).astype(np.float32), rng.permutation(len(candidates))
        slow, moved = scorer.slow(history, r2, candidates), scorer.slow(history, r2, candidates[order])
        alone = scorer.slow(history, r2, candidates[-1:])
        for all_, some, one in zip(slow, moved, alone, strict=True):
            assert np.array_equal(all_[order], some)
            assert np.array_equal(all_[-1:], one)
        fast = scorer.fast(clicks, exposures, candidates, slow.r_t, slow.r_n, f2s=slow.f2s)
        moved_fast = scorer.fast(clicks, exposures, candidates[order], moved.r_t, moved.r_n, f2s=moved.f2s)
        alone_fast = scorer.fast(clicks, exposures, candidates[-1:], alone.r_t, alone.r_n, f2s=alone.f2s)
        for all_, some, one in zip(fast, moved_fast, alone_fast, strict=True):
            assert np.array_equal(all_[order], some)
            assert np.array_equal(all_[-1:], one)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_one_thread_and_two_give_the_same_bits(config: NetConfig) -> None:
    scorer, answers = Scorer(lively(config)), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rng, found = np.random.default_rng(4), b""
        for _ in range(6):
            candidates = rng.integers(1, ROWS, int(rng.integers(1, 130)))
            r2 = rng.standard_normal(config.dim).astype(np.float32)
            slow = scorer.slow(rows(rng, 60), r2, candidates)
            fast = scorer.fast(rows(rng, 12), rows(rng, 12), candidates, slow.r_t, slow.r_n, f2s=slow.f2s)
            states = rng.standard_normal((len(candidates), config.dim)).astype(np.float32)
            found += b"".join(x.tobytes() for x in (*slow, *fast, scorer.step(states, candidates)))
        answers.append(found)
    torch.set_num_threads(before)
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("_threads")
def test_a_step_depends_on_its_own_row_alone() -> None:
    scorer, rng = Scorer(lively(CONFIGS[0])), np.random.default_rng(3)
    for size in (1, 2, TILE - 1, TILE, TILE + 1, 200):
        states = rng.standard_normal((size, 32)).astype(np.float32)
        stepped, order = rng.integers(1, ROWS, size), rng.permutation(size)
        after = scorer.step(states, stepped)
        assert np.array_equal(after[order], scorer.step(states[order], stepped[order]))
        assert np.array_equal(after[-1:], scorer.step(states[-1:], stepped[-1:]))


def test_encoding_exposures_is_the_steps_one_after_the_other_bit_for_bit() -> None:
    nets = lively(CONFIGS[0])
    scorer, rng = Scorer(nets), np.random.default_rng(5)
    given, lengths = rng.integers(1, ROWS, (70, 9)), rng.integers(0, 10, 70)
    states = rng.standard_normal((70, 32)).astype(np.float32)
    encoded = scorer.encode_exposures(states, [rows_[:n] for rows_, n in zip(given, lengths, strict=True)])
    E = nets.encoder.E.detach().numpy().astype(np.float64)
    w = part({name: x.detach().numpy().astype(np.float64) for name, x in nets.named_parameters()}, "encoder.gru_n")
    for i in range(0, 70, 3):
        state = states[i : i + 1]
        for row in given[i, : lengths[i]]:
            state = scorer.step(state, np.array([row]))
        assert np.array_equal(encoded[i], state[0])
        naive = gru(w, list(E[given[i, : lengths[i]]]), states[i].astype(np.float64))
        np.testing.assert_allclose(encoded[i], naive, atol=1e-5)


def test_answering_changes_neither_the_nets_nor_the_arguments() -> None:
    nets = lively(CONFIGS[0])
    scorer, before = Scorer(nets), {name: w.clone() for name, w in nets.state_dict().items()}
    history, candidates, r2 = np.arange(2, 30), np.arange(30, 100), np.ones(32, np.float32)
    for frozen in (history, candidates, r2):
        frozen.flags.writeable = False
    first, second = scorer.slow(history, r2, candidates), scorer.slow(history, r2, candidates)
    scorer.step(np.ones((3, 32), np.float32), candidates[:3])
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(w, before[name]) for name, w in nets.state_dict().items())


def test_no_candidates_give_no_scores() -> None:
    scorer, none = Scorer(lively(CONFIGS[0])), np.empty(0, np.int64)
    slow = scorer.slow(none, np.zeros(32, np.float32), none)
    assert [x.shape for x in slow] == [(0, 32), (0, 32), (0,), (0,)]
    assert len(scorer.fast(none, none, none, slow.r_t, slow.r_n).mc2sf) == 0
    assert scorer.step(np.empty((0, 32), np.float32), none).shape == (0, 32)
    assert scorer.encode_exposures(np.zeros((2, 32), np.float32), [none, none]).shape == (2, 32)
    assert scorer.encode_exposures(np.zeros((0, 32), np.float32), []).shape == (0, 32)


@pytest.mark.parametrize("dim", [2, 3, 6, 254])
def test_settings_refuse_a_size_that_the_scorer_refuses(dim: int) -> None:
    with pytest.raises(ValueError, match="no multiple of 4"):
        Scorer(Nets.initial(NetConfig(dim=dim), 8, 1))
    with pytest.raises(ValidationError, match="multiple of 4"):
        Settings(dim=dim)


@pytest.mark.parametrize("dim", [4, 12, 256])
def test_the_scorer_takes_what_settings_allow(dim: int) -> None:
    Scorer(Nets.initial(net_config(Settings(dim=dim)), 8, 1))


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(
    "config",
    [*CONFIGS, replace(SMALL, min_gru=True, history_layers=1, floor=True)],
    ids=[*NAMES, "minGRU, HSTU blocks and floor"],
)
def test_a_request_is_scored_alike_alone_and_among_any_others(config: NetConfig) -> None:
    scorer, rng = Scorer(lively(config)), np.random.default_rng(7)
    queries, asked = [], []
    for n in (100, 5, 64, 65, 0, 20, 1, 130, 20, 1030):  # the last ones are in several calls
        r_t, r_n = rng.standard_normal((2, n, config.dim)).astype(np.float16)
        statistics, f2s = rng.integers(0, 8, (n, 3)).astype(np.uint8), rng.standard_normal(n).astype(np.float32)
        queries.append(FastQuery(rows(rng, 12), rows(rng, 12), rng.integers(1, ROWS, n), r_t, r_n, statistics, f2s))
        r2 = rng.standard_normal(config.dim).astype(np.float32)
        asked.append(SlowQuery(rows(rng, 60), r2, queries[-1].candidates, statistics))
    alone, slow_alone = [scorer.fast(*query) for query in queries], [scorer.slow(*query) for query in asked]
    for order in (range(len(queries)), rng.permutation(len(queries))):
        for i, together in zip(order, scorer.fast_many([queries[i] for i in order]), strict=True):
            np.testing.assert_array_equal(alone[i].fast, together.fast)
            np.testing.assert_array_equal(alone[i].mc2sf, together.mc2sf)
        for i, answer in zip(order, scorer.slow_many([asked[i] for i in order]), strict=True):
            for of_one, of_many in zip(slow_alone[i], answer, strict=True):
                np.testing.assert_array_equal(of_one, of_many)
