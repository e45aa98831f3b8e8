"""The bench on which nets are fitted and judged: one dataset, one protocol, and the fits that are done already."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploy.experiments import batches, lists
from deploy.experiments.batches import Recipe
from deploy.experiments.dataset import Dataset
from deploy.experiments.known import Known
from deploy.experiments.lists import Score
from deploy.experiments.protocol import Phase, Protocol, served
from models.fitting import FitConfig, fit
from models.log import Ints
from models.objectives import OfLists, OfSequences
from models.ranking import metrics
from models.sequential import Sequential

Told = Callable[[str, int, float, float], None]  # fit, epoch, loss, validation NDCG@10


@dataclass
class Spent:
    """What the fits of a net cost."""

    seconds: float = 0.0
    epochs: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)


class Bench:
    """Fits nets on a dataset's training phases, chooses epochs on its validation phase, ranks its test phase."""

    def __init__(self, dataset: Dataset, protocol: Protocol, fits: Path, told: Told = lambda *_: None) -> None:
        """`fits` keeps what is fitted, so that a cut run goes on and rows that share a slow net fit it once."""
        self.dataset = dataset
        self.protocol = protocol
        self.spent = Spent()
        self._fits = fits
        self._told = told
        log = served(dataset.log, dataset.phase, protocol)
        self._known = {fresh: Known.of(log, protocol, fresh=fresh) for fresh in (True, False)}
        self._lists = {
            phase: lists.lists(dataset, dataset.of(phase), protocol) for phase in (Phase.VALIDATION, Phase.TEST)
        }

    @property
    def rows(self) -> int:
        """Rows of E."""
        return self.dataset.rows

    @property
    def users(self) -> int:
        """How many users there are."""
        return len(self.dataset.users)

    def ranks(self, score: Score, phase: Phase = Phase.TEST, *, fresh: bool = True) -> Ints:
        """The rank of each click of `phase`: [V], user by user."""
        of_phase, known = self._lists[phase], self._known[fresh]
        return lists.ranks(score, lambda some: known(of_phase.clicks[some]), of_phase)

    def fit(
        self, name: str, net: nn.Module, recipe: Recipe, seed: int, some: tuple[Phase, ...], *, fresh: bool = True
    ) -> None:
        """Fit what wants a gradient in `net` on the clicks of some phases; `name` is the fit's, for all seeds."""
        if isinstance(net, Sequential):
            draw = batches.of_sequences(self.dataset, recipe, some, net.length)
            objective: nn.Module = OfSequences(net, recipe.loss)
        else:
            draw = batches.of_lists(self.dataset, self.protocol, recipe, some, fresh=fresh)
            objective = OfLists(net, recipe.loss)
        keep = self._fits / f"{name}-{seed}.safetensors"
        clock = keep.with_suffix(".json")
        seconds: list[float] = json.loads(clock.read_text()) if clock.exists() and keep.exists() else []
        begun = time.perf_counter()

        def progress(epoch: int, loss: float, score: float) -> None:
            nonlocal begun
            now = time.perf_counter()
            del seconds[epoch:]
            seconds.append(now - begun)
            clock.parent.mkdir(parents=True, exist_ok=True)
            clock.write_text(json.dumps(seconds))
            begun = now
            self._told(f"{name} seed {seed}", epoch, loss, score)

        fitted = fit(
            objective,
            draw,
            lambda: metrics(self.ranks(net, Phase.VALIDATION, fresh=fresh))["ndcg@10"],
            FitConfig(recipe.learning_rate, recipe.l2, recipe.epochs, recipe.patience),
            seed,
            keep=keep,
            progress=progress,
        )
        self.spent.seconds += sum(seconds)
        self.spent.epochs += len(fitted.curve)
        self.spent.curves[name] = [round(score, 5) for score in fitted.curve]


def popularity(bench: Bench) -> Score:
    """How often each item was clicked in the training phases."""
    log, dataset = bench.dataset.log, bench.dataset
    counts = np.bincount(log.keys[dataset.of(Phase.SLOW, Phase.FAST)], minlength=dataset.rows)
    table = torch.from_numpy(counts.astype(np.float32))
    return lambda _, items: table[items]
