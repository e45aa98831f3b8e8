"""The benchmark of mixtures: weights are of the interval before, and the retrains' scores are those of the nets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.training import collaboration, increment
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.source import parse


def interval(seed: int, sign: float) -> collaboration.Interval:
    """Return an interval in which the clicked item is the one with the highest (sign 1) or lowest `known` score."""
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.random((200, 100), np.float32))
    scores[:, 0] = 0.5 + sign
    noise = torch.from_numpy(rng.random((200, 100), np.float32))
    return collaboration.Interval(np.arange(200), np.ones(200, bool), {"noise": noise, "known": scores})


def test_a_mixture_is_fitted_on_the_interval_before_the_one_that_it_ranks() -> None:
    found = collaboration.mixture([interval(1, 1), interval(2, 1), interval(3, -1)], ("noise", "known"))
    first, second, third = found.reshape(3, 200).mean(1)
    assert first < 0.1
    assert second > 0.9
    assert third < first


@pytest.mark.slow
def test_each_click_after_the_first_retrain_is_ranked_once(tmp_path: Path) -> None:
    plan = prepare(parse("synthetic:users=20,items=120,clicks=20"), Options(epoch="40"), tmp_path)
    log = increment.read(plan)
    found = list(collaboration.intervals(log, plan.epochs, 1))
    every = plan.epochs // collaboration.RETRAINS
    assert sum(len(each.users) for each in found) == int(((log.kinds == 1) & (log.epochs >= every)).sum())
    names = {name for mixture in collaboration.MIXTURES.values() for name in mixture}
    assert all(names == set(each.scores) for each in found)
    assert collaboration.mixture(found, ("mc2sf",)).mean() == pytest.approx(0.1, abs=0.1)
