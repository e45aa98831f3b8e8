"""Weights of the repeats: how much the score of a candidate grows if it is among the clicks that a net sees.

On a log of songs or games most clicks repeat an item of the user, and no net learns that from vectors. The weights are
fitted after the nets and their gains, on held-out clicks, one per net. They are not negative, and are zero until they
are better by a test: on a log whose items are clicked once, as films are, they stay zero and change no rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.mc2sf.nets import Nets
from models.training.held_out import MIN_SAMPLES, HeldOut, cross_entropy, is_better

PRIOR = 2.0  # penalty on the squared distance from the weight before, relative to a user's mean loss per click
LARGEST = 8.0
_HALVINGS = 20


@torch.no_grad()
def fit_repeats(nets: Nets, parts: Sequence[HeldOut], before: Tensor) -> None:
    """Set the weights of the repeats of `nets`, which has none, to those with the lowest loss on held-out clicks.

    `before` [4] are the weights before the retrain. A net keeps a weight of zero unless the loss is lower by a standard
    error, over users if there are enough; if it had a weight before, a lower mean suffices.
    """
    others, repeats = (
        torch.cat(each, 1) for each in zip(*[(p.logits(nets)[0], p.repeats()) for p in parts], strict=True)
    )
    users = np.concatenate([part.users for part in parts])
    _, user = np.unique(users, return_inverse=True)
    enough = user.max(initial=-1) + 1 >= MIN_SAMPLES
    weights = _minimum(others, repeats, before, 2 * PRIOR / max(user.max(initial=0) + 1, 1))
    differences = cross_entropy(others + weights[:, None, None] * repeats) - cross_entropy(others)
    for net, difference in enumerate(differences.double().numpy()):
        samples = np.bincount(user, difference).astype(np.float64) if enough else difference
        adopted = samples.sum() < 0 if before[net] else is_better(samples, np.zeros(len(samples)))
        nets.encoder.repeats[net] = weights[net] if adopted else 0


def _minimum(others: Tensor, repeats: Tensor, before: Tensor, penalty: float) -> Tensor:
    """Return the weights [4] with the lowest penalised loss of others + weight x repeats, [4, n, C] each.

    The loss is convex: bisection on the sign of its derivative.
    """
    low, high = torch.zeros(len(before)), torch.full((len(before),), LARGEST)
    for _ in range(_HALVINGS):
        weights = (low + high) / 2
        probabilities = torch.softmax(others + weights[:, None, None] * repeats, -1)
        slope = ((probabilities * repeats).sum(-1) - repeats[..., 0]).mean(-1) + penalty * (weights - before)
        low, high = torch.where(slope < 0, weights, low), torch.where(slope < 0, high, weights)
    return low
