"""Units in total order, and the variant `popularity`: candidates by their clicks so far.

A *unit* is an impression, or a single event without one. All outcomes of a unit are judged before any of its clicks
counts. The recorder and scoring again offline walk the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import Rank, rank

T = TypeVar("T")


class Click(NamedTuple):
    """A click, sorted by its place in total order within an epoch."""

    group_time: int
    user: str
    seq: int
    item: int
    impression: int


class Unit(NamedTuple, Generic[T]):
    """Items clicked, and what is to be judged before they count, by seq."""

    clicked: list[int]
    judged: list[T]


def units(clicks: Iterable[Click], judged: Mapping[tuple[str, int], T]) -> Iterator[Unit[T]]:
    """One epoch's units that hold a click, in total order. `judged` is by (user, seq) of the click.

    What belongs to no click of this epoch comes last, in order of (user, seq): without lockstep an outcome may be read
    before the click that it is of.
    """
    left = dict(judged)
    unit: Unit[T] | None = None
    place: tuple[str, int] | None = None  # user and impression of `unit`; None: a single event
    for click in sorted(clicks):
        if unit is None or place is None or place != (click.user, click.impression):
            if unit is not None:
                yield unit
            unit = Unit([], [])
            place = (click.user, click.impression) if click.impression else None
        unit.clicked.append(click.item)
        if (found := left.pop((click.user, click.seq), None)) is not None:
            unit.judged.append(found)
    if unit is not None:
        yield unit
    for key in sorted(left):
        yield Unit([], [left[key]])


class Popularity:
    """Clicks so far by item."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts = Counter(counts or {})

    def rank(self, candidates: NDArray[np.int64], place: int) -> Rank:
        """The rank of the candidate at `place`; equal counts are ordered by place."""
        return rank([self._counts[key] for key in candidates.tolist()], place)

    def learn(self, clicked: Iterable[int]) -> None:
        """Count clicks."""
        self._counts.update(clicked)
