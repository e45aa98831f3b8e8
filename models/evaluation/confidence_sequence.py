"""Asymptotic confidence sequences: intervals of a mean that hold at all times at once.

An ordinary interval that is checked after every click excludes zero too often; these intervals may be checked.
Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", arXiv 2103.06476, eq. (14) and appendix B.2 for `TIGHTEST`. It is the normal mixture SPRT, inverted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHA = 0.05
TIGHTEST = 1000  # number of clicks at which the sequence is narrowest
MIN_USERS = 30  # with fewer users there is no interval: their sums are not nearly normal


def half_width(variance: Floats, n: int) -> Floats:
    """Return the half-width after `n` observations, given the variance of their mean: [...] -> [...]."""
    rho2 = (math.log(1 - 2 * math.log(ALPHA)) - 2 * math.log(ALPHA)) / TIGHTEST
    return np.sqrt(variance * (1 + 1 / (n * rho2)) * (math.log(n * rho2 + 1) - 2 * math.log(ALPHA)))


def by_clusters(sums: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Return means over observations and their variances, [M] each, from sums [U, M] and counts [U] of clusters.

    Observations of one cluster may depend on each other in any way.
    """
    n, clusters = counts.sum(), len(counts)
    means = sums.sum(0) / n
    residuals = sums - np.outer(counts, means)
    return means, np.square(residuals).sum(0) / n**2 * clusters / (clusters - 1)
