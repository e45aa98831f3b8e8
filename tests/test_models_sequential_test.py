"""The sequential test: seldom wrong about two that are equal, however often it is asked, and right about others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.evaluation.confidence_sequence import ALPHA
from models.evaluation.sequential_test import MIN_OBSERVATIONS, PairedEvidence


def first_verdict(differences: np.ndarray, step: int = 20) -> tuple[str | None, int]:
    """Return the first verdict and after how many differences it came."""
    evidence = PairedEvidence()
    for start in range(0, len(differences), step):
        some = differences[start : start + step]
        evidence = evidence.plus(np.ones(len(some)), 1 + some)
        if (verdict := evidence.verdict()) is not None:
            return verdict, evidence.n
    return None, len(differences)


def test_of_two_that_are_equal_few_are_ever_called_better_however_often_one_asks() -> None:
    rng = np.random.default_rng(1)
    found = [first_verdict(rng.exponential(1.0, 4000) - 1)[0] for _ in range(400)]
    wrong = sum(verdict is not None for verdict in found)
    assert wrong <= 400 * ALPHA
    naive = 0  # an interval for one look, looked at as often
    for _ in range(100):
        sums = np.cumsum(rng.normal(size=4000))[MIN_OBSERVATIONS::20]
        naive += bool((np.abs(sums) > 1.96 * np.sqrt(np.arange(MIN_OBSERVATIONS, 4000, 20) + 1)).any())
    assert naive > 100 * 2 * ALPHA


def test_a_difference_is_found_after_hundreds_on_the_right_side_and_never_before_there_are_enough() -> None:
    rng = np.random.default_rng(2)
    for sign, verdict in ((-1, "lower"), (1, "higher")):
        found = [first_verdict(rng.normal(sign * 0.15, 1, 4000)) for _ in range(50)]
        assert {name for name, _ in found} == {verdict}
        assert 200 < np.median([n for _, n in found]) < 1000
    few = rng.normal(size=MIN_OBSERVATIONS - 1) / 9
    assert PairedEvidence().plus(few, few - 1).verdict() is None
    assert math.isinf(PairedEvidence().radius())


def test_evidence_in_parts_is_the_evidence_as_a_whole() -> None:
    active, candidate = np.random.default_rng(3).normal(size=(2, 600))
    values, whole = candidate - active, PairedEvidence().plus(active, candidate)
    parts = PairedEvidence().plus(active[:250], candidate[:250]).plus(active[250:], candidate[250:])
    assert parts.n == whole.n
    assert whole.means() == (active.sum() / 600, pytest.approx(candidate.mean()))
    assert np.isnan(PairedEvidence().means()).all()
    assert math.isclose(parts.radius(), whole.radius())
    assert math.isclose(whole.radius() / values.std(), 3.06 / math.sqrt(600), rel_tol=0.02)
