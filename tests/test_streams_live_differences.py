"""Live differences: means of paired NDCG@10 with intervals by users, and the epoch from which they exclude zero."""

from __future__ import annotations

import random

import numpy as np
import pytest

from models.evaluation.confidence_sequence import MIN_USERS, by_clusters, half_width
from streams.prequential.live_differences import LiveDifference, LiveDifferences
from streams.prequential.metrics import ndcg_10

VARIANTS = ("mc2sf", "served", "fast", "f2s", "din", "river", "popularity", "random")
USERS = 2 * MIN_USERS + 20  # more than the first rows hold


def outcomes(epochs: int = 6) -> list[tuple[int, str, dict[str, int]]]:
    draw = random.Random(3)
    found = []
    for epoch in range(epochs):
        for user in range(USERS):
            ranks = {variant: draw.randint(1, 20) for variant in (*VARIANTS, "mine")}
            found.append((epoch, f"u{user}", ranks | {"mc2sf": draw.randint(1, 12), "served": draw.randint(1, 12)}))
    return found


def compared(live: LiveDifferences) -> dict[tuple[str, str], LiveDifference]:
    return {(each.variant, each.minus): each for each in live.differences()}


def test_the_differences_are_those_of_the_same_clicks_with_intervals_by_users() -> None:
    live = LiveDifferences(["mine"])
    for each in outcomes():
        live.update(*each)
    found = compared(live)
    assert set(found) == {("mc2sf", b) for b in (*VARIANTS[1:], "mine")} | {
        ("served", b) for b in (*VARIANTS[2:], "mine")
    }
    gains = np.zeros((USERS, 1))
    for _, user, ranks in outcomes():
        gains[int(user[1:])] += ndcg_10(ranks["served"]) - ndcg_10(ranks["fast"])
    (mean,), variance = by_clusters(gains, np.full(USERS, 6.0))
    width = half_width(variance, 6 * USERS).item()
    one = found["served", "fast"]
    assert [one.difference, one.low, one.high] == pytest.approx([mean, mean - width, mean + width], abs=1e-6)
    assert one.since is not None
    assert one.since > 0, "one epoch is not enough"
    assert found["mc2sf", "served"].since is None


def test_clicks_that_not_all_variants_ranked_do_not_count_and_few_users_give_no_interval() -> None:
    live = LiveDifferences()
    for epoch, user, ranks in outcomes():
        live.update(epoch, user, {v: rank for v, rank in ranks.items() if v != "din"})
    assert live.differences() == []
    for epoch, user, ranks in outcomes():
        if int(user[1:]) < MIN_USERS - 1:
            live.update(epoch, user, ranks)
    assert live.differences() == []
    live.update(5, "another", outcomes()[0][2])
    assert live.differences() != []
