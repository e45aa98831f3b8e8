"""The difference of mc2sf and popularity over the last span: which clicks it has, and what few of them can say."""

from __future__ import annotations

import random

import numpy as np
import pytest
from prometheus_client import REGISTRY

from models.evaluation.confidence_sequence import MIN_USERS, by_clusters, half_width
from streams.prequential.sliding import STEPS, Sliding, SlidingDifference
from streams.recorder.metric_rows import show_sliding

DAY = 86_400_000
USERS = 2 * MIN_USERS


def filled(clicks: int, mean: float, *, begin: int = 0, into: SlidingDifference | None = None) -> SlidingDifference:
    """Clicks of USERS in turn within a day from `begin`; their differences have the noise of NDCG@10."""
    found, draw = into or SlidingDifference(DAY), random.Random(clicks)
    for i in range(clicks):
        found.add(begin + i * DAY // clicks, f"user {i % USERS}", mean + draw.gauss(0, 0.35))
    return found


def test_a_value_is_of_its_step_and_old_steps_are_dropped() -> None:
    sliding = Sliding(STEPS * 10, list[int])
    for time in (5, 15, 9, 235):
        at = sliding.at(time)
        assert at is not None
        at.append(time)
    assert list(sliding) == [[5, 9], [15], [235]]
    assert sliding.at(240) == []
    assert list(sliding) == [[15], [235], []]
    assert sliding.at(9) is None, "it is too old now"


def test_the_interval_is_that_of_the_means_of_users() -> None:
    draw = random.Random(1)
    clicks = [(f"user {draw.randrange(USERS)}", draw.gauss(0.1, 0.3)) for _ in range(400)]
    sliding = SlidingDifference(DAY)
    for i, (user, difference) in enumerate(clicks):
        sliding.add(i, user, difference)
    users = sorted({user for user, _ in clicks})
    sums = np.array([[sum(d for other, d in clicks if other == user)] for user in users])
    counts = np.array([float(sum(other == user for other, _ in clicks)) for user in users])
    (mean,), variance = by_clusters(sums, counts)
    width = half_width(variance, 400).item()
    assert sliding.interval() == pytest.approx((mean - width, mean, mean + width))


def test_a_young_run_is_not_below_zero_by_noise_and_a_real_drop_is() -> None:
    young = filled(100, -0.03).interval()
    assert young is not None
    assert young.mean < 0 < young.high
    dropped = filled(3000, -0.1, begin=2 * DAY, into=filled(3000, 0.1)).interval()
    assert dropped is not None
    assert dropped.high < 0, "the span has the clicks of the drop only"


def test_few_users_give_no_interval() -> None:
    sliding = SlidingDifference(DAY)
    assert sliding.interval() is None
    for i in range(MIN_USERS - 1):
        sliding.add(i, f"user {i}", 0.1)
        sliding.add(i, f"user {i}", 0.3)
    assert sliding.interval() is None
    sliding.add(MIN_USERS, "another", 0.1)
    assert sliding.interval() is not None
    sliding.add(3 * DAY, "another", 0.1)
    assert sliding.interval() is None, "the others are of an older span"


def test_the_gauge_is_there_as_long_as_there_is_an_interval() -> None:
    def high() -> float | None:
        labels = {"variant": "mc2sf", "minus": "popularity", "bound": "high"}
        return REGISTRY.get_sample_value("mc2sf_online_sliding_difference", labels)

    sliding = filled(3000, 0.1)
    show_sliding(sliding)
    interval = sliding.interval()
    assert interval is not None
    assert high() == interval.high
    sliding.add(3 * DAY, "another", 0.1)
    show_sliding(sliding)
    assert high() is None
