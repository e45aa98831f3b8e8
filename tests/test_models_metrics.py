"""Ranks and metrics."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation.metrics import METRICS, chance, gains, mean_chance, metrics, rank

scores = st.lists(st.floats(width=32), min_size=1, max_size=30)


@given(scores, st.data())
def test_the_rank_is_that_of_a_stable_sort_with_scores_that_are_not_finite_at_the_end(
    values: list[float], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(values) - 1))
    found = rank(np.array(values, np.float32), index)
    assert found.not_finite == sum(not math.isfinite(x) for x in values)
    if math.isfinite(values[index]):
        order = sorted(range(len(values)), key=lambda i: -values[i] if math.isfinite(values[i]) else math.inf)
        assert found.rank == order.index(index) + 1
    else:
        assert found.rank == len(values)


def test_a_constant_scorer_scores_chance() -> None:
    n = 100
    ranks = [rank(np.zeros(n), index).rank for index in range(n)]
    assert metrics(ranks) == pytest.approx(chance(n), abs=1e-15)
    assert chance(100)["hr@10"] == pytest.approx(0.1)
    assert chance(5)["hr@10"] == 1
    assert chance(1) == dict.fromkeys(METRICS, 1.0)


def test_gains_are_the_definitions() -> None:
    of = gains([1, 2, 5, 6, 10, 11])
    assert list(of) == list(METRICS)
    assert of["hr@1"].tolist() == [1, 0, 0, 0, 0, 0]
    assert of["hr@5"].tolist() == [1, 1, 1, 0, 0, 0]
    assert of["hr@10"].tolist() == [1, 1, 1, 1, 1, 0]
    assert of["ndcg@5"].tolist() == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(6), 0, 0, 0])
    assert of["ndcg@10"].tolist() == pytest.approx([1 / math.log2(p + 1) for p in (1, 2, 5, 6, 10)] + [0])
    assert of["mrr"].tolist() == pytest.approx([1, 1 / 2, 1 / 5, 1 / 6, 1 / 10, 1 / 11])


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.randoms())
def test_metrics_are_the_same_to_the_last_digit_in_any_order(ranks: list[int], random: Random) -> None:
    shuffled = list(ranks)
    random.shuffle(shuffled)
    assert metrics(ranks) == metrics(shuffled)


def test_no_rank_has_no_metric() -> None:
    assert all(math.isnan(x) for x in metrics([]).values())
    assert all(math.isnan(x) for x in mean_chance([]).values())


def test_chance_over_lists_of_several_sizes_is_their_mean() -> None:
    assert mean_chance([5, 100])["hr@10"] == pytest.approx((1 + 0.1) / 2)
