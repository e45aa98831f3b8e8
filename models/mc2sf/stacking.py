"""Stacking: mc2sf as a weighted sum of the device's own score and of what the cloud adds to it.

The cloud adds S2F's score (eq. 8), its own score of the candidate, and the affinity of the candidate to the device's
last clicks by the item neighbours of all users. The sum starts from fast alone, with a weight of zero for all else.
The weights are fitted on clicks that neither the nets nor the neighbours were trained on (Wolpert, "Stacked
Generalization", 1992), so that help can only be learnt. The sum is elementwise: a row's result depends on
that row only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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


def affinity(neighbour_rows: Tensor, neighbour_weights: Tensor, clicks: Tensor, items: Tensor) -> tuple[Tensor, ...]:
    """Return how close each candidate is to the clicks before it, by each weight of the item neighbours: [B, C] each.

    `clicks` [B, L] are left-padded rows of E, `items` [B, C] rows of E. The sum over the clicks decays with their age.
    At most one neighbour of a click is the candidate, so the inner sum is exact in any order.
    """
    total = torch.zeros(*items.shape, neighbour_weights.shape[-1])
    for age, row in enumerate(clicks.flip(1).t()):
        match = neighbour_rows[row].unsqueeze(1) == items.unsqueeze(2)  # [B, C, neighbours]
        total = total + DECAY**age * (match.unsqueeze(-1) * neighbour_weights[row].float().unsqueeze(1)).sum(2)
    return total.unbind(-1)
