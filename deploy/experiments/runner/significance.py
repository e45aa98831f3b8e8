"""Whether one net ranks better than another on the same users: a paired bootstrap over users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data.interaction_log import Ints
from models.evaluation.metrics import gains

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Test:
    """The difference a - b of a metric, its 95 % interval and a two-sided p."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p: float


def by_user(ranks: Ints, users: Ints) -> dict[str, Floats]:
    """Each user's mean of each metric over the user's clicks and all seeds: ranks [seeds, V], users [V] -> [U]."""
    _, of = np.unique(users, return_inverse=True)
    counts = np.bincount(of)
    return {name: np.bincount(of, values.mean(0)) / counts for name, values in gains(ranks).items()}


def compare(
    a: tuple[str, Mapping[str, Floats]], b: tuple[str, Mapping[str, Floats]], seed: int, resamples: int = 4000
) -> list[Test]:
    """Tests of all metrics of two nets on the same users. Resamples are the same for all metrics."""
    metrics = list(a[1])
    differences = np.stack([a[1][name] - b[1][name] for name in metrics])  # [M, U]
    users = differences.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, len(metrics)))
    for i in range(resamples):
        counts = np.bincount(generator.integers(users, size=users), minlength=users)
        means[i] = differences @ counts / users
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    # the share of resamples on the other side of zero, doubled; never below what so many resamples can tell
    tails = np.minimum((means <= 0).sum(0), (means >= 0).sum(0))
    p = np.minimum(1.0, 2 * (tails + 1) / (resamples + 1))
    return [
        Test(a[0], b[0], name, float(differences[i].mean()), float(low[i]), float(high[i]), float(p[i]))
        for i, name in enumerate(metrics)
    ]
