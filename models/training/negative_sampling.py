"""Negative sampling: per click from its slate or uniformly, and per batch from a distribution over the catalogue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data.catalogue import FIRST_ROW

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class NegativeSampler:
    """A distribution over items: `log_q` f4 [rows of E], -inf on the reserved rows."""

    log_q: NDArray[np.float32]
    _edges: NDArray[np.float64]  # cumulative probabilities, [items]

    @classmethod
    def from_clicks(cls, clicks: Ints, rows: int, power: float = 0.0) -> NegativeSampler:
        """Return a sampler proportional to (1 + clicks of the item) ** power; `clicks` are rows; power 0 is uniform."""
        counts = np.bincount(clicks, minlength=rows)[FIRST_ROW:rows].astype(np.float64)
        q = (1 + counts) ** power
        q /= q.sum()
        log_q = np.concatenate([np.full(FIRST_ROW, -np.inf), np.log(q)]).astype(np.float32)
        return cls(log_q, np.cumsum(q))

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Ints:
        """Draw rows of `shape`, with replacement."""
        items = np.searchsorted(self._edges, generator.random(shape) * self._edges[-1], side="right")
        return np.asarray(items, np.int64) + FIRST_ROW


class SeenItems:
    """The items that each user has interacted with, which are no negatives of that user."""

    def __init__(self, users: Ints, items: Ints, rows: int) -> None:
        """Take pairs of users and items [N], rows of an E of `rows` rows."""
        self._rows = rows
        self._codes = np.unique(users * rows + items)

    def __call__(self, users: Ints, items: Ints) -> NDArray[np.bool_]:
        """Return True for each user who had the item; `users` and `items` are broadcast."""
        codes = users * self._rows + items
        if not len(self._codes):
            return np.zeros(codes.shape, np.bool_)
        index = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return np.asarray(self._codes[index] == codes)


def draw_uniform(generator: np.random.Generator, targets: Ints, rows: int, n: int) -> Ints:
    """Draw rows [B, n] of items other than the targets [B], from an E of `rows` rows.

    Raises ValueError if the catalogue has fewer than two items.
    """
    if rows < FIRST_ROW + 2:
        raise ValueError("negatives need a catalogue of two items at least")
    drawn = generator.integers(FIRST_ROW, rows - 1, (len(targets), n))
    # drawn from one item fewer; items from the target on are shifted by one, so that nothing is rejected
    return drawn + ((drawn >= targets[:, None]) & (targets[:, None] >= FIRST_ROW))


def draw_from_slates(generator: np.random.Generator, rows: Ints, start: Ints, end: Ints, n: int) -> Ints:
    """Draw rows [B, n] from rows[start:end] of each click, without repetition if the slate has enough items.

    Every range must hold at least one item.
    """
    size = end - start
    longest = int(size.max(initial=0))
    draws = generator.random((len(start), longest))
    draws[np.arange(longest) >= size[:, None]] = 2.0  # behind all real ones
    order = np.argsort(draws, axis=1, kind="stable")
    chosen = order[:, np.arange(n) % max(longest, 1)]
    return rows[start[:, None] + chosen % size[:, None]]
