"""Intervals by a bootstrap over users hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.evaluation.bootstrap import CLUSTERS, MIN_USERS, UserBootstrap


def clicks(draw: np.random.Generator, users: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Clicks of users who differ by `spread`, one to nine each: user numbers [N], and a value per click [1, N]."""
    user = np.repeat(np.arange(users), draw.integers(1, 10, users))
    return user, (draw.normal(0, spread, users)[user] + draw.normal(size=len(user)))[None]


@pytest.mark.parametrize("users", [60, 3 * CLUSTERS])
def test_an_interval_covers_the_truth_about_nineteen_times_in_twenty(users: int) -> None:
    draw = np.random.default_rng(5)
    trials = 120 if users < CLUSTERS else 20
    bootstrap = UserBootstrap(users, seed=1, resamples=600)
    found = [bootstrap.estimates(*clicks(draw, users, 1.0))[0] for _ in range(trials)]
    covered = sum(each.low <= 0 <= each.high for each in found) / trials
    assert 0.88 <= covered <= 1 - (users < CLUSTERS) * 0.005


def test_the_interval_is_wider_if_the_clicks_of_a_user_are_alike() -> None:
    draw = np.random.default_rng(6)
    widths = []
    for spread in (0.0, 2.0):
        (found,) = UserBootstrap(200, seed=1).estimates(*clicks(draw, 200, spread))
        widths.append(found.high - found.low)
    assert widths[1] > 2 * widths[0]


def test_with_a_click_per_user_the_width_is_that_of_the_mean() -> None:
    values = np.random.default_rng(7).normal(size=(1, 500))
    (found,) = UserBootstrap(500, seed=1).estimates(np.arange(500), values)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(500), rel=0.05)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    user, values = clicks(np.random.default_rng(8), 50, 1.0)
    one, again, other = (UserBootstrap(50, seed).estimates(user, values) for seed in (1, 1, 2))
    assert one == again != other


def test_too_few_users_have_no_interval() -> None:
    user = np.repeat(np.arange(MIN_USERS - 1), 40)
    (found,) = UserBootstrap(MIN_USERS - 1, seed=1).estimates(user, np.ones((1, len(user))))
    assert found.value == 1
    assert math.isnan(found.low)
    assert math.isnan(found.p)


def test_no_difference_at_all_is_an_interval_of_no_width() -> None:
    (found,) = UserBootstrap(30, seed=1).estimates(np.arange(30), np.zeros((1, 30)))
    assert found == (0, 0, 0, 1)
