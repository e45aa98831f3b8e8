"""A paired bootstrap over users: the difference of two models' metrics on the same users, with its interval and p."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from deploy.experiments.results.result import Difference
from models.data.interaction_log import Ints
from models.evaluation.metrics import gains

Floats = NDArray[np.float64]


def by_user(ranks: Ints, users: Ints) -> dict[str, Floats]:
    """Return each metric's mean per user over clicks and seeds [U], from ranks [seeds, V] and users [V]."""
    _, of = np.unique(users, return_inverse=True)
    counts = np.bincount(of)
    return {name: np.bincount(of, values.mean(0)) / counts for name, values in gains(ranks).items()}


def compare(
    a: tuple[str, Mapping[str, Floats]], b: tuple[str, Mapping[str, Floats]], seed: int, resamples: int = 4000
) -> list[Difference]:
    """Return the difference a - b of each metric, tested with the same resamples of users."""
    metrics = list(a[1])
    differences = np.stack([a[1][name] - b[1][name] for name in metrics])  # [M, U]
    users = differences.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, len(metrics)))
    for i in range(resamples):
        counts = np.bincount(generator.integers(users, size=users), minlength=users)
        means[i] = differences @ counts / users
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    # twice the share of resamples on the other side of zero; at least what this number of resamples can resolve
    tails = np.minimum((means <= 0).sum(0), (means >= 0).sum(0))
    p = np.minimum(1.0, 2 * (tails + 1) / (resamples + 1))
    return [
        Difference(a[0], b[0], name, float(differences[i].mean()), float(low[i]), float(high[i]), float(p[i]))
        for i, name in enumerate(metrics)
    ]
