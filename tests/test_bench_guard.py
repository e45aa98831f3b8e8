from __future__ import annotations

from collections.abc import Iterator

from benchmarks.guard import ALLOWED, ATTEMPTS, Pair, slower


def nothing() -> None:
    pass


def test_speed_is_lost_only_if_every_attempt_says_so() -> None:
    def attempts(*ratios: float) -> list[float]:
        found: Iterator[float] = iter(ratios)

        def measure(_: Pair) -> float:
            return next(found)

        return slower((nothing, nothing), 2.0, measure)

    assert attempts(2 * ALLOWED) == []
    assert attempts(2.61, 9.0, 2.59) == []
    bad = [2.61] * ATTEMPTS
    assert attempts(*bad) == bad
