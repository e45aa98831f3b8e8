"""The variant `popularity`: candidates ranked by their clicks so far; and the walk over an epoch in total order.

All outcomes of an impression group are ranked before any of its clicks counts. The recorder and the rescoring both walk
by `impression_groups`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.data.impression_groups import same_group
from models.evaluation.metrics import Rank, rank

T = TypeVar("T")


class Click(NamedTuple):
    """A click. Within an epoch, clicks sort in total order."""

    group_time: int  # event time of the first event of its impression group, ms
    user: str
    seq: int
    item: int
    impression: int
    kind: int


class ImpressionGroup(NamedTuple, Generic[T]):
    """The items clicked in an impression group, and the outcomes to rank before these clicks count, by seq."""

    clicked: list[int]
    outcomes: list[T]


def impression_groups(clicks: Iterable[Click], outcomes: Mapping[tuple[str, int], T]) -> Iterator[ImpressionGroup[T]]:
    """Yield an epoch's impression groups that hold a click, in total order. `outcomes` is by (user, seq) of the click.

    Outcomes without a click in this epoch come last, in order of (user, seq): the records of their clicks were refused.
    """
    unmatched = dict(outcomes)
    group: ImpressionGroup[T] | None = None
    previous: Click | None = None
    for click in sorted(clicks):
        joined = previous is not None and previous.user == click.user
        if group is None or previous is None or not (joined and same_group(previous.impression, click.impression)):
            if group is not None:
                yield group
            group = ImpressionGroup([], [])
        previous = click
        group.clicked.append(click.item)
        if (outcome := unmatched.pop((click.user, click.seq), None)) is not None:
            group.outcomes.append(outcome)
    if group is not None:
        yield group
    for key in sorted(unmatched):
        yield ImpressionGroup([], [unmatched[key]])


class Popularity:
    """Counts clicks per item."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts = Counter(counts or {})

    def rank(self, candidates: NDArray[np.int64], target_index: int) -> Rank:
        """Return the rank of the candidate at `target_index`; equal counts rank in the order of the list."""
        return rank([self._counts[key] for key in candidates.tolist()], target_index)

    def learn(self, clicked: Iterable[int]) -> None:
        """Count clicks."""
        self._counts.update(clicked)
