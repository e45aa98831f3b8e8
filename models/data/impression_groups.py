"""The impression-group rule: adjacent events of one user with the same impression number form one group.

An event without an impression (number 0) forms a group alone. All clicks of a group are ranked with the state before
the group's first event.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def same_group(previous: int, impression: int) -> bool:
    """Return True if two adjacent events of one user with these impression numbers are in one group."""
    return impression != 0 and impression == previous


def group_ranges(impressions: Sequence[int], start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield [start, end) of each group of one user's events, from event `start` on."""
    n = len(impressions)
    while start < n:
        end = start + 1
        while end < n and same_group(impressions[end - 1], impressions[end]):
            end += 1
        yield start, end
        start = end


def begins_group(impressions: NDArray[np.int64], same_user: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return True for each event that is the first of its group: impressions [N], same_user [N - 1] -> [N].

    `same_user[i]` is true if events i and i + 1 belong to one user.
    """
    begins = np.ones(len(impressions), bool)
    begins[1:] = ~(same_user & (impressions[1:] != 0) & (impressions[1:] == impressions[:-1]))
    return begins


def first_of_group(impressions: NDArray[np.int64], same_user: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the index of the first event of each event's group, [N]; arguments as for `begins_group`."""
    begins = begins_group(impressions, same_user)
    return np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
