"""A paired sequential test of two models, which may be evaluated after every observation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.evaluation.confidence_sequence import half_width

Floats = NDArray[np.float64]

MIN_OBSERVATIONS = 200  # with fewer observations there is no decision: the interval is asymptotic


@dataclass(frozen=True)
class PairedEvidence:
    """Losses of an active and a candidate model on the same observations so far, as the sums that a test needs."""

    n: int = 0
    active: float = 0.0
    difference: float = 0.0  # candidate minus active
    squares: float = 0.0  # of the differences

    def plus(self, active: Floats, candidate: Floats) -> PairedEvidence:
        """Return the evidence with further losses [n]."""
        difference = candidate - active
        return PairedEvidence(
            self.n + len(active),
            self.active + float(active.sum()),
            self.difference + float(difference.sum()),
            self.squares + float(np.square(difference).sum()),
        )

    def means(self) -> tuple[float, float]:
        """Return the mean loss of the active model and of the candidate; NaN without observations."""
        if not self.n:
            return math.nan, math.nan
        return self.active / self.n, (self.active + self.difference) / self.n

    def radius(self) -> float:
        """Return the half-width of the interval around the mean difference; infinite for few observations."""
        if self.n < MIN_OBSERVATIONS:
            return math.inf
        variance = max(self.squares / self.n - (self.difference / self.n) ** 2, 0.0)
        return float(half_width(np.array(variance / self.n), self.n))

    def verdict(self) -> Literal["lower", "higher"] | None:
        """Return "lower" if the candidate's loss is significantly lower, "higher" if it is higher, None if neither."""
        mean, radius = self.difference / max(self.n, 1), self.radius()
        if mean + radius < 0:
            return "lower"
        return "higher" if mean - radius > 0 else None
