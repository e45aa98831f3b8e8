"""Confidence sequences: looked at after every few clicks, they exclude zero by chance in at most 5 % of runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.evaluation.confidence_sequence import ALPHA, MIN_USERS, TIGHTEST, by_clusters, half_width

RUNS, USERS, CLICKS, LOOK = 400, 100, 3000, 25


def excluded(difference: float, per_user: float, seed: int) -> tuple[Any, Any]:
    """Return for each run if zero was ever excluded, and if so by plain 95 % intervals, looked at as often."""
    draw = np.random.default_rng(seed)
    user = np.concatenate([np.arange(MIN_USERS), draw.integers(USERS, size=CLICKS - MIN_USERS)])
    effects = draw.normal(difference, per_user, (USERS, RUNS))
    sums, counts, ever, plain = np.zeros((USERS, RUNS)), np.zeros(USERS), np.zeros(RUNS, bool), np.zeros(RUNS, bool)
    for start in range(0, CLICKS, LOOK):
        some = user[start : start + LOOK]
        gains = draw.choice([-1.0, 0.0, 0.0, 0.0, 1.0], (len(some), RUNS))  # most clicks have equal ranks
        np.add.at(sums, some, effects[some] + gains)
        np.add.at(counts, some, 1)
        if (counts > 0).sum() >= MIN_USERS:
            means, variances = by_clusters(sums[counts > 0], counts[counts > 0])
            ever |= abs(means) > half_width(variances, int(counts.sum()))
            plain |= abs(means) > 1.96 * np.sqrt(variances)
    return ever, plain


@pytest.mark.parametrize("per_user", [0.0, 0.2, 1.0])
def test_without_a_difference_zero_is_ever_excluded_in_at_most_alpha_of_the_runs(per_user: float) -> None:
    ever, plain = excluded(0.0, per_user, 1)
    assert ever.mean() <= ALPHA
    assert plain.mean() > 2 * ALPHA, "intervals for one look may not be looked at again and again"


def test_a_real_difference_is_found() -> None:
    ever, _ = excluded(0.06, 0.1, 2)
    assert ever.mean() > 0.8


def test_the_sequence_is_narrowest_for_its_size_where_it_is_meant_to_be() -> None:
    ratios = {n: float(half_width(np.array(1.0), n)) for n in (100, 500, TIGHTEST, 2000, 10_000)}
    assert min(ratios, key=ratios.__getitem__) == TIGHTEST
    assert 2.5 < ratios[TIGHTEST] < 3.2, "the price of looking at any time, against 1.96"
