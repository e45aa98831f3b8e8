"""Stacking in a retrain: the item neighbours of all clicks but the held-out ones, and weights fitted on those.

On a log on which the cloud adds no information, weights fitted to a few hundred clicks are noise and make rankings
worse. So they are not negative (Breiman, "Stacked Regressions", 1996), and they replace fast alone only if they are
better on clicks that they were not fitted to.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.interaction_log import is_click
from models.data.item_neighbours import ItemNeighbours, fit_neighbours
from models.evaluation.metrics import gains
from models.mc2sf import stacking
from models.mc2sf.nets import Nets
from models.optimisers.newton import minimum
from models.training.held_out import MIN_SAMPLES, cross_entropy, is_better
from models.training.losses import Loss
from models.training.minibatches import ClickSource

Ints = NDArray[np.int64]

NEGATIVES = 19  # per click of the fit
BATCH = 128
PRIOR_CLICKS = 10.0  # strength of the prior at fast alone, in clicks
FITTED_CLICKS = 150.0  # the same for a prior at weights that were fitted before
FOLDS = 5  # blocks of time, each scored by weights that are fitted to the others
SMALL = 1e-3  # initial weight of a feature, times its deviation


def neighbours_without(source: ClickSource, held_out: Ints) -> ItemNeighbours:
    """Return the item neighbours of the clicks of `source` except `held_out`."""
    log = source.states.log
    known = is_click(log.kinds)
    known[source.states.event[held_out]] = False
    rows = source.catalogue.rows(log.keys[known])
    return fit_neighbours(rows, log.users[known], log.times[known], source.rows)


def stack(nets: Nets, source: ClickSource, held_out: Ints, loss: Loss, seed: int) -> None:
    """Fit the stack of `nets`, in place, to clicks `held_out`, in total order, unknown to nets and neighbours.

    If these clicks do not support the fitted weights, they become those of fast alone.
    """
    weights, features = nets.fast.stack, _features(nets, source, held_out, seed)
    supported = is_supported(features, source.states.user[held_out], weights, loss)
    weights.copy_(_fit(features, weights, loss) if supported else stacking.initial_weights())


def is_supported(features: Tensor, users: Ints, before: Tensor, loss: Loss) -> bool:
    """Return True if weights fitted to clicks of `users` [M], in total order, have a lower loss than fast alone.

    A click's loss is that of weights fitted to the other blocks of time; fast alone is scaled by a factor fitted in the
    same way. To replace fast alone the loss must be lower by a standard error, over users if there are enough. If
    weights were supported `before`, a lower mean suffices: a repeated test would often reject weights that help. The
    mean NDCG@10 of these clicks must be higher, too: on some logs weights lower the loss and rank worse.
    """
    initial = stacking.initial_weights()
    is_fast, block = initial > 0, torch.arange(len(features)) * FOLDS // max(len(features), 1)
    differences, gain = np.zeros(len(features)), 0.0
    for fold in range(FOLDS):
        train, test = features[block != fold], features[block == fold]
        fitted = test @ _fit(train, before, loss).to(test.dtype)
        alone = test[..., is_fast] @ fit_weights(train[..., is_fast], initial[is_fast], loss).to(test.dtype)
        differences[block == fold] = cross_entropy(fitted) - cross_entropy(alone)
        gain += float((_ndcg(fitted) - _ndcg(alone)).sum())
    if gain <= 0:
        return False
    if not before.equal(initial):
        return bool(differences.mean() < 0)
    _, user = np.unique(users, return_inverse=True)
    if user.max(initial=-1) + 1 >= MIN_SAMPLES:
        differences = np.bincount(user, differences).astype(np.float64)
    return is_better(differences, np.zeros(len(differences)))


def _ndcg(scores: Tensor) -> NDArray[np.float64]:
    """Return the NDCG@10 of lists [M, C] whose column 0 is the click; half of the equal scores count as higher."""
    click, others = scores[:, :1], scores[:, 1:]
    return gains(1 + (others > click).sum(-1) + (others == click).sum(-1) / 2)["ndcg@10"]


def _fit(features: Tensor, before: Tensor, loss: Loss) -> Tensor:
    """Return the weights of the stack, which were `before`, fitted to clicks."""
    prior = PRIOR_CLICKS if before.equal(stacking.initial_weights()) else FITTED_CLICKS
    return fit_weights(features, before, loss, prior)


@torch.no_grad()
def _features(nets: Nets, source: ClickSource, clicks: Ints, seed: int) -> Tensor:
    """Return the features [M, 1 + NEGATIVES, FEATURES] of `clicks`, in their order."""
    generator, features = np.random.default_rng([seed, 2]), []
    for start in range(0, len(clicks), BATCH):
        chunk = clicks[start : start + BATCH]
        batch = source.batch_of(chunk, source.candidates(chunk, generator, n=NEGATIVES))
        logits = nets(batch.inputs(nets, nets.encoder.E[batch.rows]))
        affinities = nets.fast.neighbours.affinities(batch.rows[batch.clicks], batch.rows[batch.items])
        features.append(torch.stack((logits.mc2sf, logits.fast, logits.f2s, *affinities), -1))
    return torch.cat(features) if features else torch.empty(0)


def fit_weights(features: Tensor, before: Tensor, loss: Loss, prior: float = PRIOR_CLICKS) -> Tensor:
    """Return the weights [F], not negative, that minimise the loss of clicks with `features` [M, 1 + N, F].

    Column 0 is the click. The squared distance from a multiple of the weights `before` is penalised as strongly as
    `prior` clicks, so that few clicks change little and the evidence of several fits adds up. It is measured in each
    feature's deviation over the candidates on which it is not zero: over all candidates, the weight of a rare feature
    would hardly be penalised. The multiple is fitted as well, with a small penalty: nets are overconfident on unseen
    clicks, and all their scores shrink together.
    """
    if not len(features):
        return before
    x, start = features.double(), before.double().clamp(min=0)
    scale = ((x - x.mean(1, keepdim=True)).square().sum((0, 1)) / (x != 0).sum((0, 1)).clamp(min=1)).sqrt()
    scale = torch.where(scale > 0, scale, 1)
    roots = (start + SMALL / scale).sqrt()  # above zero, where the gradient of a square would be zero

    def penalised_loss(point: Tensor) -> Tensor:  # of the logarithm of the multiple, and the roots of the weights
        weights = point[1:].square()
        distance = (scale * (weights - point[0].exp() * start)).square().sum()
        return loss(x @ weights) + (distance * prior + point[0].square()) / len(x)

    return minimum(penalised_loss, torch.cat([roots.new_zeros(1), roots]))[1:].square().to(before.dtype)
