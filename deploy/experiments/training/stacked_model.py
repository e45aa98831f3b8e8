"""MC2-SF as the stream serves it: a weighted sum of S2F, fast alone, F2S and item neighbours (`models.mc2sf.stacking`).

The nets are those of "MC2-SF, product on the device" and its control. The item neighbours are fitted on the clicks that
fast nets are trained on, and the weights on the validation clicks, which neither nets nor neighbours were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deploy.experiments.data.candidate_lists import CandidateLists
from deploy.experiments.data.protocol import Phase
from deploy.experiments.training.hyperparameters import HyperparameterSet
from deploy.experiments.training.models import BOTH, Model, fast_tuned, fitted_f2s, fitted_mc2sf
from deploy.experiments.training.trainer import Trainer
from models.data.catalogue import ROW_PADDING
from models.data.item_neighbours import ItemNeighbours, fit_neighbours
from models.data.queries import Queries
from models.mc2sf.stacking import affinity, initial_weights, weighted
from models.mc2sf.variants import F2S, MC2SF, FastAlone
from models.training.losses import sampled_softmax
from models.training.stacking import fit_weights

BATCH = 128  # lists


@dataclass
class Stacked:
    """Scores queries by the weighted sum of all parts."""

    s2f: MC2SF
    fast: FastAlone
    f2s: F2S
    neighbours: ItemNeighbours
    short: int  # clicks of the device
    weights: Tensor  # [FEATURES]

    def features(self, queries: Queries, items: Tensor) -> list[Tensor]:
        """Return the score of each part for `items` [V, C], in the order of FEATURES: [V, C] each."""
        clicks = queries.clicks[:, -self.short :].numpy()
        of_neighbours = np.stack(
            [
                affinity(self.neighbours, some[some != ROW_PADDING], listed)
                for some, listed in zip(clicks, items.numpy(), strict=True)
            ],
            1,
        )
        parts = [net(queries, items) for net in (self.s2f, self.fast, self.f2s)]
        return [*parts, *torch.from_numpy(of_neighbours)]

    def __call__(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]."""
        return weighted(self.weights, self.features(queries, items))


def mc2sf_stacked(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> Stacked:
    """MC2-SF as the stream serves it: the nets have an inner product in the heads of the device."""
    params = hyperparameters.with_product(("fast", "s2f"))
    log = trainer.dataset.log
    clicks = trainer.dataset.clicks(*BOTH)
    net = Stacked(
        fitted_mc2sf(trainer, params, seed, fresh=True),
        fast_tuned(trainer, params, seed),
        fitted_f2s(trainer, params, seed)[0],
        fit_neighbours(log.keys[clicks], log.users[clicks], log.times[clicks], trainer.rows),
        trainer.protocol.short,
        initial_weights(),
    )
    net.weights = fit_weights(
        _features(net, trainer, trainer.candidate_lists(Phase.VALIDATION)), net.weights, sampled_softmax
    )
    return net


@torch.no_grad()
def _features(net: Stacked, trainer: Trainer, lists: CandidateLists) -> Tensor:
    """Return the features [V, C, FEATURES] of `lists`, the click in column 0; lists are cut to the shortest one."""
    known, found = trainer.known_history(), []
    shortest = int((lists.items != ROW_PADDING).sum(1).min())
    rows = np.arange(len(lists))[:, None]
    order = np.argsort(np.arange(lists.items.shape[1]) != lists.target_index[:, None], axis=1, kind="stable")
    items = torch.from_numpy(lists.items[rows, order][:, :shortest])
    for start in range(0, len(lists), BATCH):
        some = slice(start, start + BATCH)
        found.append(torch.stack(net.features(known.queries(lists.clicks[some]), items[some]), -1))
    return torch.cat(found)


MC2SF_STACKED_MODEL = Model("MC2-SF, stacked", mc2sf_stacked, ("fast", "f2s", "s2f"))
