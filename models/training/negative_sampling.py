"""What negatives are drawn from, and how likely each item is: a draw is shared by a whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data.catalogue import FIRST_ROW

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class NegativeSampler:
    """A distribution over the rows of E: `log_q` f4 [rows], -inf on the reserved rows."""

    log_q: NDArray[np.float32]
    _edges: NDArray[np.float64]  # cumulative chances, [items]

    @classmethod
    def from_clicks(cls, clicks: Ints, rows: int, power: float = 0.0) -> NegativeSampler:
        """Items in proportion to (1 + their clicks) ** power; power 0 is uniform. `clicks` are rows, any number."""
        counts = np.bincount(clicks, minlength=rows)[FIRST_ROW:rows].astype(np.float64)
        q = (1 + counts) ** power
        q /= q.sum()
        log_q = np.concatenate([np.full(FIRST_ROW, -np.inf), np.log(q)]).astype(np.float32)
        return cls(log_q, np.cumsum(q))

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Ints:
        """Rows of `shape`, with replacement."""
        places = np.searchsorted(self._edges, generator.random(shape) * self._edges[-1], side="right")
        return np.asarray(places, np.int64) + FIRST_ROW


class SeenItems:
    """Which items each user has had: those are no negatives of the user's."""

    def __init__(self, users: Ints, items: Ints, rows: int) -> None:
        """Pairs of users and items [N], of a catalogue of `rows` rows."""
        self._rows = rows
        self._codes = np.unique(users * rows + items)

    def __call__(self, users: Ints, items: Ints) -> NDArray[np.bool_]:
        """Whether each of `users` had each of `items`, broadcast against each other."""
        codes = users * self._rows + items
        if not len(self._codes):
            return np.zeros(codes.shape, np.bool_)
        places = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return np.asarray(self._codes[places] == codes)


def draw_uniform(generator: np.random.Generator, targets: Ints, rows: int, n: int) -> Ints:
    """Rows [B, n] of items other than the target's, `rows` being all rows of E. The catalogue needs two items."""
    if rows < FIRST_ROW + 2:
        raise ValueError("negatives need a catalogue of two items at least")
    drawn = generator.integers(FIRST_ROW, rows - 1, (len(targets), n))
    # one fewer is drawn than there are, and those from the target on move up: no rejection
    return drawn + ((drawn >= targets[:, None]) & (targets[:, None] >= FIRST_ROW))


def draw_from_slates(generator: np.random.Generator, rows: Ints, start: Ints, end: Ints, n: int) -> Ints:
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
