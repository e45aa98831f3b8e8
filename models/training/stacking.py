"""Stacking in a retrain: the item neighbours of all clicks but the held-out ones, and weights fitted on those."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.interaction_log import is_click
from models.data.item_neighbours import ItemNeighbours, fit_neighbours
from models.mc2sf import stacking
from models.mc2sf.nets import Nets
from models.training.losses import Loss
from models.training.minibatches import ClickSource
from models.training.newton import minimum

Ints = NDArray[np.int64]

NEGATIVES = 19  # per click of the fit
BATCH = 128
PRIOR_CLICKS = 10.0  # as much as this many clicks hold the weights where they were


def neighbours_without(source: ClickSource, held: Ints) -> ItemNeighbours:
    """Return the item neighbours of the clicks of `source` without those `held` out."""
    log = source.states.log
    known = is_click(log.kinds)
    known[source.states.event[held]] = False
    rows = source.catalogue.rows(log.keys[known])
    return fit_neighbours(rows, log.users[known], log.times[known], source.rows)


def stack(nets: Nets, source: ClickSource, held: Ints, loss: Loss, seed: int) -> None:
    """Fit the weights to half of the clicks that were `held` out, which the neighbours of `nets` do not know."""
    weights = nets.fast.stack
    weights.copy_(fit_weights(_features(nets, source, held[::2], seed), weights, loss))


@torch.no_grad()
def _features(nets: Nets, source: ClickSource, some: Ints, seed: int) -> Tensor:
    """Return the features [M, 1 + NEGATIVES, FEATURES] of clicks `some`."""
    generator, found = np.random.default_rng([seed, 2]), []
    for start in range(0, len(some), BATCH):
        batch = source.batch(some[start : start + BATCH], generator, n=NEGATIVES)
        logits = nets(batch.inputs(nets, nets.encoder.E[batch.rows]))
        affinities = nets.fast.neighbours.affinities(batch.rows[batch.clicks], batch.rows[batch.items])
        found.append(torch.stack((logits.mc2sf, logits.fast, logits.f2s, *affinities), -1))
    return torch.cat(found) if found else torch.empty(0)


def fit_weights(features: Tensor, before: Tensor, loss: Loss) -> Tensor:
    """Return the weights [F] that minimise the loss of clicks with `features` [M, 1 + N, F], column 0 the click.

    The distance from a multiple of the weights `before`, in units of each feature's deviation, is penalised, so that
    few clicks change little and the evidence of several fits adds up. The multiple is fitted as well, with hardly a
    penalty: nets are too sure of clicks that they have not seen, and all their scores shrink together.
    """
    if not len(features):
        return before
    x, start = features.double(), before.double()
    scale = (x - x.mean(1, keepdim=True)).square().mean((0, 1)).sqrt()

    def weights(change: Tensor) -> Tensor:  # the first is the logarithm of the multiple
        return change[0].exp() * start + change[1:]

    def value(change: Tensor) -> Tensor:
        penalty = ((scale * change[1:]).square().sum() * PRIOR_CLICKS + change[0].square()) / len(x)
        return loss(stacking.weighted(weights(change), x.unbind(-1))) + penalty

    return weights(minimum(value, start.new_zeros(1 + len(start)))).to(before.dtype)
