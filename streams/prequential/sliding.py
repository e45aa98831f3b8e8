"""The last span of event time, in steps, and the difference of mc2sf and popularity within it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from models.evaluation.confidence_sequence import MIN_USERS, by_clusters, half_width

T = TypeVar("T")

STEPS = 24  # what is older than the span is dropped in steps of its 24th part


class Sliding(Generic[T]):
    """A value, made by `new`, for each step of the last `span_ms` of event time that has outcomes."""

    def __init__(self, span_ms: int, new: Callable[[], T]) -> None:
        self._step_ms, self._new = max(span_ms // STEPS, 1), new
        self._steps: dict[int, T] = {}
        self._newest = 0

    def at(self, time: int) -> T | None:
        """Return the value of the step that `time` is in, None if it is older than the span; drop older steps."""
        step = time // self._step_ms
        if step > self._newest or not self._steps:
            self._newest = max(step, self._newest)
            for old in [each for each in self._steps if each <= self._newest - STEPS]:
                del self._steps[old]
        if step <= self._newest - STEPS:
            return None
        if step not in self._steps:
            self._steps[step] = self._new()
        return self._steps[step]

    def __iter__(self) -> Iterator[T]:
        return iter(self._steps.values())


class Interval(NamedTuple):
    """A mean, and the 95 % interval that holds at all times since the begin of the span."""

    low: float
    mean: float
    high: float


class SlidingDifference:
    """Mean of a difference per click over the last `span_ms` of event time, with an interval by users."""

    def __init__(self, span_ms: int) -> None:
        self._steps = Sliding(span_ms, lambda: (array("q"), array("d")))  # per click: hash of the user, difference

    def add(self, time: int, user: str, difference: float) -> None:
        """Add a click, in total order."""
        if (step := self._steps.at(time)) is not None:
            users, differences = step
            users.append(hash(user))
            differences.append(difference)

    def interval(self) -> Interval | None:
        """Return the interval; None with too few users for one."""
        users = np.concatenate([np.array(step) for step, _ in self._steps] or [np.zeros(0)])
        found, rows, counts = np.unique(users, return_inverse=True, return_counts=True)
        if len(found) < MIN_USERS:
            return None
        differences = np.concatenate([np.array(step) for _, step in self._steps])
        sums = np.bincount(rows, differences).astype(np.float64)[:, None]
        (mean,), variance = by_clusters(sums, counts.astype(np.float64))
        width = half_width(variance, len(users)).item()
        return Interval(mean - width, mean, mean + width)
