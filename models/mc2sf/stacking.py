"""Stacking: mc2sf as a weighted sum of the device's own score and of scores that depend on the cloud.

The latter are S2F's score (eq. 8), F2S's score, and the affinity of the candidate to the device's last clicks by the
item neighbours. Initially only fast alone has a weight. The weights are fitted on clicks that neither the nets nor the
neighbours were trained on (Wolpert, "Stacked Generalization", 1992). The sum is elementwise, so that a row's result
depends on that row only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data.item_neighbours import ItemNeighbours

Ints = NDArray[np.int64]

FEATURES = ("s2f", "fast", "f2s", "ease", "transitions")
_NO_KEYS = np.zeros(0, np.int64)
DECAY = 0.8  # of the affinity to a click per later click


def initial_weights() -> Tensor:
    """Return the weights [FEATURES] before the first fit: fast alone."""
    return torch.tensor([float(name == "fast") for name in FEATURES])


def weighted(weights: Tensor, features: Sequence[Tensor]) -> Tensor:
    """Return the sum of features [...] with `weights` [FEATURES], term by term in order."""
    total = weights[0] * features[0]
    for weight, feature in zip(weights[1:], features[1:], strict=True):
        total = total + weight * feature
    return total


class Neighbours(nn.Module):
    """The neighbours of each row of E, then of newer items without a row in E, with these items' keys.

    The device holds them, and the learner updates them between retrains.
    """

    rows: Tensor
    weights: Tensor
    keys: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        for name in ("rows", "weights", "keys"):
            self.register_buffer(name, None)
        self.replace(ItemNeighbours.empty(size))

    def replace(self, neighbours: ItemNeighbours, keys: Ints = _NO_KEYS) -> None:
        """Replace the neighbours of all items; `keys` belong to the last rows, which E lacks."""
        self.rows, self.weights = torch.from_numpy(neighbours.rows), torch.from_numpy(neighbours.weights)
        self.keys = torch.from_numpy(keys.copy())

    def resized(self, old: int, size: int) -> ItemNeighbours:
        """Return the neighbours of an E that grows from `old` to `size` rows: only those among the old rows."""
        resized = ItemNeighbours.empty(size)
        kept = min(self.rows.shape[1], resized.rows.shape[1])  # the strongest come first
        resized.rows[:old, :kept] = self.rows[:old, :kept].numpy()
        resized.weights[:old, :kept] = self.weights[:old, :kept].numpy()
        newer = resized.rows >= old
        resized.rows[newer] = resized.weights[newer] = 0
        return resized

    def numpy(self) -> ItemNeighbours:
        """Return the neighbours as arrays, which share the memory."""
        return ItemNeighbours(self.rows.numpy(), self.weights.numpy())

    def affinity(self, clicks: Ints, items: Ints) -> NDArray[np.float32]:
        """Return the affinity of items [C] to the clicks [L] before them, see the function: [WEIGHTS, C]."""
        return affinity(self.numpy(), clicks, items)

    def affinities(self, clicks: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Return the affinities of items [B, C] to left-padded clicks [B, L]: [B, C] each."""
        pairs = zip(clicks.numpy(), items.numpy(), strict=True)
        return torch.from_numpy(np.stack([self.affinity(*pair) for pair in pairs])).unbind(1)


def affinity(neighbours: ItemNeighbours, clicks: Ints, items: Ints) -> NDArray[np.float32]:
    """Return how close candidates [C] are to the clicks [L] before them: [WEIGHTS, C], one row per kind of weight.

    Both are rows of E, clicks oldest first. A candidate may be a neighbour of several clicks; a click's weight decays
    with the number of later clicks.
    """
    newest_first, decay = clicks[::-1], DECAY ** np.arange(len(clicks))
    near = neighbours.rows[newest_first].ravel()
    weights = neighbours.weights[newest_first] * decay[:, None, None]  # [L, neighbours, WEIGHTS]
    by_kind = np.moveaxis(weights, -1, 0)
    return np.array([np.bincount(near, kind.ravel(), len(neighbours.rows))[items] for kind in by_kind], np.float32)
