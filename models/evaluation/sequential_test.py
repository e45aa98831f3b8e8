"""A paired sequential test: one may ask after every observation which of two is better, and is rarely misled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHA = 0.05  # chance of ever deciding between two that are equal
LEAST = 200  # observations below which nothing is decided: the interval is that of many
_TUNED = 500  # observations at which the interval is narrowest


@dataclass(frozen=True)
class PairedEvidence:
    """Differences of two losses on the same observations so far: number, sum, and sum of squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, differences: Floats) -> PairedEvidence:
        """Return the evidence with further differences [n]."""
        total, squares = float(differences.sum()), float(np.square(differences).sum())
        return PairedEvidence(self.n + len(differences), self.total + total, self.squares + squares)

    def radius(self) -> float:
        """Return the half width of the interval around the mean; infinite for few differences.

        It holds at all times together: the asymptotic confidence sequence of Waudby-Smith et al., "Time-uniform
        central limit theory and asymptotic confidence sequences", 2024, theorem 2.2.
        """
        if self.n < LEAST:
            return math.inf
        variance = max(self.squares / self.n - (self.total / self.n) ** 2, 0.0)
        mixed = self.n * (-2 * math.log(ALPHA) + math.log(1 - 2 * math.log(ALPHA))) / _TUNED + 1
        return math.sqrt(2 * variance * mixed / (self.n * (mixed - 1)) * math.log(math.sqrt(mixed) / ALPHA))

    def verdict(self) -> Literal["lower", "higher"] | None:
        """Return on which side of zero the whole interval is; None if zero is in it."""
        mean, radius = self.total / max(self.n, 1), self.radius()
        if mean + radius < 0:
            return "lower"
        return "higher" if mean - radius > 0 else None
