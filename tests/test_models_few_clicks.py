"""Retrains on few clicks: on a log with less than one click an item no release is worse than the one before."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks.training.ladder import beginning, row
from benchmarks.training.simulation import Simulated, simulate
from benchmarks.training.sparse_world import SLATE, sparse_log
from models.evaluation.metrics import gains
from models.training.retrain import TrainConfig

pytestmark = pytest.mark.slow  # three retrains


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    log = sparse_log(users=200, items=6000, clicks=600, epochs=30, seed=1)
    return simulate(log, TrainConfig(), lambda made: made.candidate <= made.active, every=10, seed=1)


def test_every_retrain_becomes_a_release_that_is_no_worse_on_held_out_clicks(simulated: Simulated) -> None:
    assert simulated.accepted == [True] * len(simulated.retrains)
    floors = [made.nets.encoder.popularity for made in simulated.retrains]
    assert not any(torch.equal(floor, other) for floor, other in pairwise(floors)), "each retrain fits the floor anew"


def test_no_net_is_below_popularity_and_all_are_above_chance(simulated: Simulated) -> None:
    found = {name: float(gains(ranks)["ndcg@10"].mean()) for name, ranks in simulated.ranks.items()}
    chance = float(gains(range(1, SLATE + 1))["ndcg@10"].mean())
    popularity = found.pop("popularity")
    assert min(found.values()) > max(chance, popularity - 0.01), (popularity, chance, found)


def test_a_rung_of_the_ladder_has_its_clicks_and_tells_the_differences_to_popularity(simulated: Simulated) -> None:
    log = sparse_log(users=200, items=6000, clicks=600, epochs=30, seed=1)
    cut = beginning(log, 250)
    assert (cut.kinds == 1).sum() == 250
    assert cut.times.max() < np.sort(log.times[log.kinds == 1])[250]
    assert np.bincount(cut.epochs).max() < 3 * SLATE
    made = row("sparse", 600, simulated)
    assert made["refused"] == 0
    assert made["ranked"] == 600
    means = made["ndcg@10"]
    for name, (value, low, high) in made["minus popularity"].items():
        assert low < value < high
        assert value == pytest.approx(means[name] - means["popularity"], abs=2e-4)
