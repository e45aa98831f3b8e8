"""Drift detection: river's ADWIN on the NDCG@10 of each variant, outcome by outcome in total order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from streams.prequential.metrics import Ranked, ndcg_10
from streams.prequential.river import ADWIN


class Drift(NamedTuple):
    """A change found by ADWIN: the mean NDCG@10 of its window before, and of the part that it kept."""

    variant: str
    before: float
    after: float


class DriftDetectors:
    """One detector per variant."""

    def __init__(self) -> None:
        self._detectors: dict[str, ADWIN] = {}

    def update(self, outcome: Ranked) -> Iterator[Drift]:
        """Add an outcome; yield the drifts that it raises. The iterator must be exhausted."""
        for variant in sorted(outcome.ranks):
            detector = self._detectors.setdefault(variant, ADWIN())
            before = detector.estimation
            detector.update(ndcg_10(outcome.ranks[variant]))
            if detector.drift_detected:
                yield Drift(variant, before, detector.estimation)
