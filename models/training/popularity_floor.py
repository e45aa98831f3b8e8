"""What a logit has beside the net's score: the popularity floor, the net's gain, and its weight of the repeats.

The floor is the score that the statistics of an item alone give it. It is fitted before the nets, which then learn what
popularity does not explain. It has only three weights, so that a few clicks suffice: of the share of all clicks, of the
share of the last epoch's clicks, and of the age. The weights of shares are not negative: at the beginning of a log few
users, who do not click an item twice, would make popularity look harmful.

Gains and weights of the repeats are fitted after the nets, on held-out clicks. On a log of songs or games most clicks
repeat an item of the user, and no net learns that from vectors. The weights are not negative, and are zero until they
are better by a test: on a log whose items are clicked once, as films are, they stay zero and change no rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.data.item_statistics import BUCKETS
from models.mc2sf.nets import Nets, log_share
from models.optimisers.newton import minimum
from models.training.held_out import MIN_SAMPLES, HeldOut, cross_entropy, is_better
from models.training.minibatches import Batch

PRIOR = 2.0  # penalty on the squared distance from weights known before, relative to a user's mean loss per click
_LARGEST = 8.0  # weight of the repeats
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
    low, high = _bisected(scores, floor, 1.0)
    nets.encoder.gains.copy_((low + high) / 2)
    return floor + nets.encoder.gains[:, None, None] * scores


@torch.no_grad()
def fit_repeats(nets: Nets, parts: Sequence[HeldOut], before: Tensor) -> None:
    """Set the weights of the repeats of `nets`, which has none, to those with the lowest loss on held-out clicks.

    `before` [4] are the weights before the retrain. A net keeps a weight of zero unless the loss is lower by a standard
    error, over users if there are enough; if it had a weight before, a lower mean suffices.
    """
    others = torch.cat([part.logits(nets)[0] for part in parts], 1)
    repeats = torch.cat([part.repeats() for part in parts], 1)
    _, user = np.unique(np.concatenate([part.users for part in parts]), return_inverse=True)
    enough = user.max(initial=-1) + 1 >= MIN_SAMPLES
    weights, _ = _bisected(repeats, others, _LARGEST, 2 * PRIOR / max(user.max(initial=0) + 1, 1), before)
    differences = cross_entropy(others + weights[:, None, None] * repeats) - cross_entropy(others)
    for net, difference in enumerate(differences.double().numpy()):
        samples = np.bincount(user, difference).astype(np.float64) if enough else difference
        adopted = samples.sum() < 0 if before[net] else is_better(samples, np.zeros(len(samples)))
        nets.encoder.repeats[net] = weights[net] if adopted else 0


def _bisected(
    values: Tensor, others: Tensor, largest: float, penalty: float = 0.0, before: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return bounds [4] of the factors, 0 to `largest`, with the lowest loss of others + factor x values [4, n, C].

    The squared distance from `before` is penalised by half of `penalty`. The loss is convex: bisection on the sign of
    its derivative.
    """
    low, high = torch.zeros(len(values)), torch.full((len(values),), largest)
    for _ in range(_HALVINGS):
        factor = (low + high) / 2
        probabilities = torch.softmax(others + factor[:, None, None] * values, -1)
        slope = ((probabilities * values).sum(-1) - values[..., 0]).mean(-1) + penalty * (factor - before)
        low, high = torch.where(slope < 0, factor, low), torch.where(slope < 0, high, factor)
    return low, high
