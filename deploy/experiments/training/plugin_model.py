"""A plugin variant as a model of an experiment: it is not fitted, and gets the same inputs as on the device."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy.experiments.data.protocol import Phase
from deploy.experiments.training.hyperparameters import HyperparameterSet
from deploy.experiments.training.models import Model, fitted_din
from deploy.experiments.training.trainer import Trainer
from models.data.catalogue import FIRST_ROW, ROW_PADDING
from models.data.item_statistics import ItemStatistics
from models.data.queries import Queries
from streams.plugins.loaded import Scores, loaded
from streams.plugins.plugin import Plugin
from streams.plugins.protocols import Keys, Seen


def plugin_model(plugin: Plugin) -> Model:
    """Return the model of a variant. Raises PluginError. Its `vectors` are those of a DIN, fitted when asked for."""
    ((name, scores),) = loaded(plugin.setting).variants.items()
    return Model(
        name,
        lambda trainer, hyperparameters, seed: PluginScore(scores, trainer, hyperparameters, seed),
        ("din",),
        code=plugin.sha256,
    )


class PluginScore:
    """Scores lists by the variant. Item statistics are those of the slow phase, as one epoch."""

    def __init__(self, scores: Scores, trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> None:
        self._scores, self._trainer = scores, trainer
        self._hyperparameters, self._seed = hyperparameters, seed
        data = trainer.dataset
        keys = data.catalogue.keys
        self._keys = np.append(np.zeros(FIRST_ROW, np.int64), keys)
        order = np.argsort(keys)
        clicks = np.bincount(data.log.keys[data.clicks(Phase.SLOW)], minlength=data.rows)[FIRST_ROW:]
        self._statistics = ItemStatistics.empty().next_epoch(keys[order], clicks[order])

    def __call__(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]; 0 for padding."""
        result = torch.zeros(items.shape, dtype=torch.float64)
        short = self._trainer.protocol.short
        for i, rows in enumerate(items.numpy()):
            candidates = self._keys[rows[rows != ROW_PADDING]]
            clicks, exposures = (
                self._keys_of(histories[i])[-short:] for histories in (queries.clicks, queries.exposures)
            )
            seen = Seen(clicks, exposures, candidates, self._statistics.buckets_of(candidates), self._vectors)
            result[i, : len(candidates)] = torch.from_numpy(self._scores(seen))
        return result

    def _keys_of(self, rows: Tensor) -> Keys:
        keys: Keys = self._keys[rows[rows != ROW_PADDING].numpy()]
        return keys

    def _vectors(self, keys: Keys) -> NDArray[np.float32]:
        return self._table[self._trainer.dataset.catalogue.rows(keys)]

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        with torch.inference_mode(mode=False):
            nets = fitted_din(self._trainer, self._hyperparameters, self._seed)[0].nets
        table: NDArray[np.float32] = nets.encoder.E.detach().numpy()
        return table
