"""Ragged sequences as ranges of one flat array, and their padding for the nets.

Padding is on the left: the newest item is in the last column, so that all histories of a batch end together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.data.catalogue import ROW_PADDING

Ints = NDArray[np.int64]


class Ranges(NamedTuple):
    """B ranges [start, end) of one flat array."""

    start: Ints
    end: Ints

    def lengths(self, indices: Ints, maximum: int) -> Ints:
        """Return the lengths of the ranges `indices`, at most `maximum` each."""
        lengths: Ints = np.minimum(self.end[indices] - self.start[indices], maximum)
        return lengths

    def gather(self, values: Ints, indices: Ints, length: int, padding: int) -> Ints:
        """Return the last `length` values of each of the ranges `indices`, left-padded with `padding`: [B, length]."""
        positions = self.end[indices, None] + np.arange(-length, 0)
        inside = positions >= self.start[indices, None]
        return np.where(inside, values[np.where(inside, positions, 0)] if len(values) else padding, padding)


def left_padded(sequences: Sequence[Ints], length: int) -> Ints:
    """Return the last `length` rows of E of each of B sequences, left-padded with ROW_PADDING: [B, length]."""
    ends = np.cumsum([len(each) for each in sequences], dtype=np.int64)
    ranges = Ranges(np.concatenate([[0], ends[:-1]]).astype(np.int64), ends)
    flat = np.concatenate([np.empty(0, np.int64), *sequences])
    return ranges.gather(flat, np.arange(len(sequences)), length, ROW_PADDING)
