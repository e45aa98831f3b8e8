"""Our side of the race with RecBole: the trainer of the experiments, stopped after each epoch and resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.recbole import matmul_limit
from deploy.experiments.data.protocol import Phase
from deploy.experiments.training import minibatches
from deploy.experiments.training.hyperparameters import Hyperparameters
from deploy.experiments.training.trainer import Trainer
from models.baselines.gru4rec import GRU4Rec, GRU4RecConfig
from models.baselines.sasrec import SASRec, SASRecConfig
from models.baselines.sequential import Sequential
from models.data.catalogue import FIRST_ROW, ROW_PADDING
from models.data.interaction_log import Ints
from models.data.queries import recent
from models.training.fit import FitConfig, fit
from models.training.objectives import SequenceBatch, SequenceObjective

SEED = 1


def net_of(model: str, trainer: Trainer, params: Hyperparameters) -> Sequential:
    """The net with the sizes that RecBole's is given; both read the clicks before the target."""
    torch.manual_seed(SEED)
    length = trainer.protocol.recent
    if model == "GRU4Rec":
        return GRU4Rec(GRU4RecConfig(params.dim, 2 * params.dim, length, params.dropout), trainer.rows)
    return SASRec(SASRecConfig(params.dim, length, dropout=params.dropout), trainer.rows, recent)


class OverCatalogue(nn.Module):
    """RecBole's loss: the softmax over all items at each position with a target."""

    def __init__(self, net: Sequential, rows: int) -> None:
        super().__init__()
        self.net = net
        self.all = torch.arange(FIRST_ROW, rows)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """One number, the mean over the places."""
        which, place = (batch.targets != ROW_PADDING).nonzero(as_tuple=True)
        states = self.net.states(batch.sequences)[which, place]
        return functional.cross_entropy(
            self.net.shared_logits(states, self.all), batch.targets[which, place] - FIRST_ROW
        )


class Ours:
    """A net of this project that trains and ranks on command."""

    def __init__(
        self, name: str, net: Sequential, trainer: Trainer, params: Hyperparameters, folder: Path, *, whole: bool
    ) -> None:
        """`whole`: the softmax over the whole catalogue, and not over sampled negatives."""
        self.name = name
        self._net, self._bench, self._recipe = net, trainer, params
        self._keep = folder / f"{name}.safetensors"
        self._objective = OverCatalogue(net, trainer.rows) if whole else SequenceObjective(net, params.loss)
        self._draw = minibatches.of_sequences(trainer.dataset, params, (Phase.SLOW,), net.length)

    def epoch(self, number: int) -> dict[str, Any]:
        """Train epoch `number`: seconds (with reading and writing the checkpoint), mean loss, steps."""
        losses: list[float] = []
        steps = 0

        def counted(epoch: int, generator: np.random.Generator) -> Iterator[Any]:
            nonlocal steps
            for batch in self._draw(epoch, generator):
                steps += 1
                yield batch

        config = FitConfig(self._recipe.learning_rate, self._recipe.l2, epochs=number + 1, patience=number + 2)
        wall, cpu = time.perf_counter(), time.process_time()
        fit(
            self._objective,
            counted,
            lambda: float(number),  # the last epoch counts as the best: no epoch is chosen here
            config,
            SEED,
            state_file=self._keep,
            progress=lambda _epoch, loss, _score: losses.append(loss),
        )
        spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        return spent | {"loss": losses[-1], "steps": steps}

    def ranks(self) -> Ints:
        """Return the rank of each test click."""
        return self._bench.ranks(self._net)

    def limit(self) -> dict[str, float]:
        """Return the CPU seconds of an epoch's matrix products alone, and their floating-point operations."""
        self._objective.train()
        with matmul_limit.Products() as products:
            for batch in self._draw(0, np.random.default_rng([SEED, 0])):
                self._objective(batch).backward()
        self._objective.zero_grad()
        return {"seconds": matmul_limit.seconds(products.counts), "flops": products.flops()}
