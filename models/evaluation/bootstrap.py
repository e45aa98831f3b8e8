"""A cluster bootstrap over users: 95 % intervals of means over clicks, and of differences on the same clicks.

Clicks of one user depend on each other, so users are drawn, not clicks. A mean over clicks is a ratio of two sums over
users; with one click per user it is a plain mean over users.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CLUSTERS = 2000  # more users are merged into this many clusters, so that the cost does not grow with the log
MIN_USERS = 10  # with fewer users there is no interval: its quantiles would be too narrow
_AT_ONCE = 500  # resamples per matrix product


class Estimate(NamedTuple):
    """A value, its 95 % interval and a two-sided p against zero; all but the value are NaN for too few users."""

    value: float
    low: float
    high: float
    p: float


class UserBootstrap:
    """Resamples of `users` users. All values of one object are compared on the same resamples."""

    def __init__(self, users: int, seed: int, resamples: int = 4000, clusters: int = CLUSTERS) -> None:
        self._resamples, self._clusters = resamples, min(users, clusters)
        generator = np.random.default_rng(seed)
        self._weights = np.zeros((resamples, self._clusters), np.uint8)  # times that a user is drawn
        for row in self._weights:
            row[:] = np.bincount(generator.integers(self._clusters, size=self._clusters), minlength=self._clusters)

    def by_user(self, users: Ints, values: Floats) -> Floats:
        """Return sums over each user's clicks [M, U], from user numbers [N] and values [M, N]."""
        cluster = users % self._clusters
        return np.stack([np.bincount(cluster, row, self._clusters) for row in values])

    def means(self, sums: Floats, counts: Floats) -> Floats:
        """Return the mean over clicks in each resample, [resamples, M], from sums [M, U] and clicks [U] of users."""
        means = np.empty((self._resamples, len(sums)))
        columns = np.vstack([sums, counts]).T
        for start in range(0, self._resamples, _AT_ONCE):
            totals = self._weights[start : start + _AT_ONCE].astype(np.float64) @ columns
            with np.errstate(invalid="ignore"):  # a resample without any click of a small subset
                means[start : start + _AT_ONCE] = totals[:, :-1] / totals[:, -1:]
        return means

    def resampled(self, users: Ints, values: Floats) -> Floats:
        """Return the mean of each row of values [M, N] over clicks of users [N] in each resample, [resamples, M]."""
        clicks = self.by_user(users, np.ones((1, len(users))))[0]
        return self.means(self.by_user(users, values), clicks)

    def estimates(self, users: Ints, values: Floats) -> list[Estimate]:
        """Return the mean of each row of values [M, N] over clicks of users [N], with its interval."""
        return estimates(values.mean(1), self.resampled(users, values), len(np.unique(users)))


def estimates(values: Floats, resampled: Floats, users: int = MIN_USERS) -> list[Estimate]:
    """Return values [M] with their intervals by resamples [resamples, M] of `users` users."""
    if users < MIN_USERS:
        return [Estimate(float(value), np.nan, np.nan, np.nan) for value in values]
    low, high = np.nanquantile(resampled, [0.025, 0.975], axis=0)
    # twice the share of resamples on the other side of zero; at least what this number of resamples can resolve
    tails = np.minimum((resampled <= 0).sum(0), (resampled >= 0).sum(0))
    p = np.minimum(1.0, 2 * (tails + 1) / (len(resampled) + 1))
    return [Estimate(*map(float, each)) for each in zip(values, low, high, p, strict=True)]
