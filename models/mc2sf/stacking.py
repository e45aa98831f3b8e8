"""Stacking: mc2sf as a weighted sum of the device's own score and of what the cloud adds to it.

The cloud adds S2F's score (eq. 8), its own score of the candidate, and the affinity of the candidate to the device's
last clicks by the item neighbours of all users. The sum starts from fast alone, with a weight of zero for all else.
The weights are fitted on clicks that neither the nets nor the neighbours were trained on (Wolpert, "Stacked
Generalization", 1992), so that help can only be learnt. The sum is elementwise: a row's result depends on
that row only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.item_neighbours import ItemNeighbours

Ints = NDArray[np.int64]

FEATURES = ("s2f", "fast", "f2s", "ease", "transitions")
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


def affinity(neighbours: ItemNeighbours, clicks: Ints, items: Ints) -> NDArray[np.float32]:
    """Return how close candidates [C] are to the clicks [L] before them: [WEIGHTS, C], one row per kind of weight.

    Both are rows of E, clicks oldest first. A candidate may be a neighbour of each click; its weight decays with the
    click's age. The sums are in order of the clicks.
    """
    near, decay = neighbours.rows[clicks[::-1]].ravel(), DECAY ** np.arange(len(clicks))
    weights = neighbours.weights[clicks[::-1]] * decay[:, None, None]
    sums = [np.bincount(near, of.ravel(), len(neighbours.rows))[items] for of in np.moveaxis(weights, -1, 0)]
    return np.array(sums, np.float32)
