"""The popularity floor: the score that the statistics of an item alone give it, and the gains of the nets above it.

The floor is fitted before the nets, which then learn what popularity does not explain. It has only three weights, so
that a few clicks suffice: of the share of all clicks, of the share of the last epoch's clicks, and of the age. The
weights of shares are not negative: at the beginning of a log few users, who do not click an item twice, would make
popularity look harmful.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.data.item_statistics import BUCKETS
from models.mc2sf.nets import Nets, log_share
from models.optimisers.newton import minimum
from models.training.held_out import HeldOut, cross_entropy
from models.training.minibatches import Batch

PRIOR = 2.0  # penalty on the squared distance from plain popularity, relative to a user's mean loss per click
_HALVINGS = 20


def fit_floor(nets: Nets, batch: Batch, users: int) -> None:
    """Fit `nets.encoder.popularity` to the clicks of `batch`, by so many users, in place."""
    shapes = torch.stack([log_share(), log_share(), torch.arange(BUCKETS) / BUCKETS]).double()
    features = torch.stack([shape[batch.item_statistics[..., i]] for i, shape in enumerate(shapes)], -1)  # [N, C, 3]
    plain = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)

    def weights(roots: Tensor) -> Tensor:
        return torch.cat([roots[:2].square(), roots[2:]])

    def loss(roots: Tensor) -> Tensor:
        distance = (weights(roots) - plain).square().sum()
        return cross_entropy(features @ weights(roots)).mean() + PRIOR * distance / users

    fitted = weights(minimum(loss, torch.tensor([1.0, 0.1, 0.0], dtype=torch.float64)))
    nets.encoder.popularity.copy_(fitted[:, None] * shapes)


@torch.no_grad()
def fit_gains(nets: Nets, held_out: HeldOut) -> Tensor:
    """Set the gain of each net to the share of its scores, 0 to 1, that has the lowest held-out loss, in place.

    Return the logits of the four nets on the held-out clicks [4, n, 1 + NEGATIVES].
    """
    nets.encoder.gains.fill_(1)
    logits, floor = held_out.logits(nets)
    scores = logits - floor
    low, high = torch.zeros(len(scores)), torch.ones(len(scores))
    for _ in range(_HALVINGS):  # the loss is convex in the gain: bisection on the sign of its derivative
        gain = (low + high) / 2
        probabilities = torch.softmax(floor + gain[:, None, None] * scores, -1)
        slope = ((probabilities * scores).sum(-1) - scores[..., 0]).mean(-1)
        low, high = torch.where(slope < 0, gain, low), torch.where(slope < 0, high, gain)
    nets.encoder.gains.copy_((low + high) / 2)
    return floor + nets.encoder.gains[:, None, None] * scores
