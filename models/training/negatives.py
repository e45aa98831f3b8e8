"""Negatives for training: non-clicked items of the click's slate where it has one, else uniform from the catalogue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.data.catalogue import FIRST_ROW

Ints = NDArray[np.int64]


def uniform(generator: np.random.Generator, targets: Ints, rows: int, n: int) -> Ints:
    """Rows [B, n] of items other than the target's, `rows` being all rows of E. The catalogue needs two items."""
    if rows < FIRST_ROW + 2:
        raise ValueError("negatives need a catalogue of two items at least")
    drawn = generator.integers(FIRST_ROW, rows - 1, (len(targets), n))
    # one fewer is drawn than there are, and those from the target on move up: no rejection
    return drawn + ((drawn >= targets[:, None]) & (targets[:, None] >= FIRST_ROW))


def from_slates(generator: np.random.Generator, rows: Ints, start: Ints, end: Ints, n: int) -> Ints:
    """Rows [B, n] drawn from rows[start:end] of each click, without repetition as long as a slate has enough.

    Every stretch must hold at least one item.
    """
    size = end - start
    longest = int(size.max(initial=0))
    places = generator.random((len(start), longest))
    places[np.arange(longest) >= size[:, None]] = 2.0  # behind all real ones
    order = np.argsort(places, axis=1, kind="stable")
    chosen = order[:, np.arange(n) % max(longest, 1)]
    return rows[start[:, None] + chosen % size[:, None]]
