"""Repeats: how often each candidate is among the clicks that a net may see.

Some items are clicked again and again, as songs and games are, and others once, as films are. A vector of the history
says little about a single item; the count says it exactly, for each item alike, however rare.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.data.catalogue import FIRST_ROW

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_LOGARITHMS = np.log1p(np.arange(256)).astype(np.float32)  # a table: the same to the last bit for any shape


def repeats(clicks: Ints, items: Ints) -> Floats:
    """Return log(1 + how often each of items [..., C] is among clicks [..., L]): [..., C].

    Both are rows of E; padding and unknown items are no repeats.
    """
    counts = (items[..., :, None] == clicks[..., None, :]).sum(-1)
    return _LOGARITHMS[np.where(items >= FIRST_ROW, np.minimum(counts, len(_LOGARITHMS) - 1), 0)]
