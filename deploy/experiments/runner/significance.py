"""A paired bootstrap over users: the difference of two models' metrics on the same users, with its interval and p."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from deploy.experiments.results.result import Difference
from models.data.interaction_log import Ints
from models.evaluation.bootstrap import UserBootstrap, estimates
from models.evaluation.metrics import gains

Floats = NDArray[np.float64]


def by_user(ranks: Ints, users: Ints) -> dict[str, Floats]:
    """Return each metric's mean per user over clicks and seeds [U], from ranks [seeds, V] and users [V]."""
    _, user = np.unique(users, return_inverse=True)
    counts = np.bincount(user)
    return {name: np.bincount(user, values.mean(0)) / counts for name, values in gains(ranks).items()}


def compare(a: tuple[str, Mapping[str, Floats]], b: tuple[str, Mapping[str, Floats]], seed: int) -> list[Difference]:
    """Return the difference a - b of each metric, tested with the same resamples of users."""
    differences = np.stack([a[1][name] - b[1][name] for name in a[1]])  # [M, U]
    users = differences.shape[1]
    resampled = UserBootstrap(users, seed, clusters=users).means(differences, np.ones(users))
    intervals = estimates(differences.mean(1), resampled)
    return [Difference(a[0], b[0], name, *each) for name, each in zip(a[1], intervals, strict=True)]
