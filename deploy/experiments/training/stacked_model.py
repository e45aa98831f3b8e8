"""MC2-SF as the stream serves it: a weighted sum of S2F, fast alone, F2S and item neighbours (`models.mc2sf.stacking`).

The nets are those of "MC2-SF, product on the device" and its control. The item neighbours are fitted on the clicks that
fast nets are trained on, and the weights on the validation clicks, which neither nets nor neighbours were trained on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from deploy.experiments.data.candidate_lists import CandidateLists
from deploy.experiments.data.protocol import Phase
from deploy.experiments.training.hyperparameters import HyperparameterSet
from deploy.experiments.training.models import BOTH, Model, fast_tuned, fitted_f2s, fitted_mc2sf
from deploy.experiments.training.trainer import Trainer
from models.data.catalogue import ROW_PADDING
from models.data.item_neighbours import ItemNeighbours, fit_neighbours
from models.data.queries import Queries
from models.mc2sf.stacking import Neighbours, initial_weights, weighted
from models.mc2sf.variants import F2S, MC2SF, FastAlone
from models.training.losses import sampled_softmax
from models.training.stacking import fit_weights

BATCH = 128  # lists


class Stacked(nn.Module):
    """Scores queries by the weighted sum of all parts."""

    stack: Tensor  # weights of the parts [FEATURES]

    def __init__(self, s2f: MC2SF, fast: FastAlone, f2s: F2S, neighbours: ItemNeighbours, short: int) -> None:
        """Start from fast alone; `short` is the number of clicks that a device keeps."""
        super().__init__()
        self.s2f, self.fast, self.f2s, self.short = s2f, fast, f2s, short
        self.neighbours = Neighbours(len(neighbours.rows))
        self.neighbours.replace(neighbours)
        self.register_buffer("stack", initial_weights())

    def features(self, queries: Queries, items: Tensor) -> list[Tensor]:
        """Return the score of each part for `items` [V, C], in the order of FEATURES: [V, C] each."""
        parts = [net(queries, items) for net in (self.s2f, self.fast, self.f2s)]
        return [*parts, *self.neighbours.affinities(queries.clicks[:, -self.short :], items)]

    def forward(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]."""
        return weighted(self.stack, self.features(queries, items))


def mc2sf_stacked(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> Stacked:
    """MC2-SF as the stream serves it, if the nets have an inner product in the heads of the device."""
    log = trainer.dataset.log
    clicks = trainer.dataset.clicks(*BOTH)
    net = Stacked(
        fitted_mc2sf(trainer, hyperparameters, seed, fresh=True),
        fast_tuned(trainer, hyperparameters, seed),
        fitted_f2s(trainer, hyperparameters, seed)[0],
        fit_neighbours(log.keys[clicks], log.users[clicks], log.times[clicks], trainer.rows),
        trainer.protocol.short,
    )
    net.stack = fit_weights(
        _features(net, trainer, trainer.candidate_lists(Phase.VALIDATION)), net.stack, sampled_softmax
    )
    return net


@torch.no_grad()
def _features(net: Stacked, trainer: Trainer, lists: CandidateLists) -> Tensor:
    """Return the features [V, C, FEATURES] of `lists`, the click in column 0; lists are cut to the shortest one."""
    known, features = trainer.known_history(), []
    shortest = int((lists.items != ROW_PADDING).sum(1).min())
    rows = np.arange(len(lists))[:, None]
    order = np.argsort(np.arange(lists.items.shape[1]) != lists.target_index[:, None], axis=1, kind="stable")
    items = torch.from_numpy(lists.items[rows, order][:, :shortest])
    for start in range(0, len(lists), BATCH):
        batch = slice(start, start + BATCH)
        features.append(torch.stack(net.features(known.queries(lists.clicks[batch]), items[batch]), -1))
    return torch.cat(features)


MC2SF_STACKED_MODEL = Model("MC2-SF, stacked", mc2sf_stacked, ("fast", "f2s", "s2f"))
