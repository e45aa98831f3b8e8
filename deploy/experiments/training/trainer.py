"""The bench on which nets are fitted and judged: one dataset, one protocol, and the fits that are done already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy.experiments.data import candidate_lists as lists
from deploy.experiments.data.candidate_lists import Lists, Score
from deploy.experiments.data.dataset import Dataset
from deploy.experiments.data.known_history import Known
from deploy.experiments.data.protocol import Phase, Protocol, served
from deploy.experiments.results.result import Settings
from deploy.experiments.training import minibatches
from deploy.experiments.training.fit_cache import Clock, refusing
from deploy.experiments.training.hyperparameters import AHEAD, Recipe
from models.baselines.fedavg import FedAvg, FedAvgConfig
from models.baselines.fm import FM
from models.baselines.item2vec import Item2Vec, Item2VecConfig
from models.baselines.neumf import NeuMF
from models.baselines.sequential import Sequential
from models.data.interaction_log import Ints
from models.data.queries import Queries, delayed, recent
from models.evaluation.metrics import metrics
from models.mc2sf.served_variant import ServedVariant
from models.mc2sf.variants import Variant
from models.training.fit import FitConfig, fit
from models.training.losses import bind_catalogue_size, prior_logit
from models.training.objectives import objective

Told = Callable[[str, int, float, float], None]  # fit, epoch, loss, validation NDCG@10


@dataclass
class Spent:
    """What the fits of a net cost."""

    seconds: float = 0.0
    epochs: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)

    def clear(self) -> None:
        """Begin to count anew."""
        self.seconds, self.epochs, self.curves = 0.0, 0, {}


class Bench:
    """Fits nets on a dataset's training phases, chooses epochs on its validation phase, ranks its test phase."""

    def __init__(
        self,
        dataset: Dataset,
        protocol: Protocol,
        fits: Path,
        told: Told = lambda *_: None,
        *,
        kept_only: bool = False,
    ) -> None:
        """`fits` keeps what is fitted, so that a cut run goes on and rows that share a slow net fit it once.

        `kept_only`: a fit that is not there, or not over, raises FitMissing instead of being done.
        """
        self.dataset = dataset
        self.protocol = protocol
        self.spent = Spent()
        self.identity = {"dataset": dataset.digest, "protocol": asdict(protocol)}
        self._fits = fits
        self._told = told
        self._kept_only = kept_only
        self._known: dict[bool, Known] = {}
        self._lists: dict[Phase, Lists] = {}

    @property
    def record(self) -> Settings:
        """The protocol for a result: what was left to the source is as it was found there."""
        return asdict(self.protocol) | {"exposures": self.dataset.policy, "positives": self.dataset.positives}

    @property
    def rows(self) -> int:
        """Rows of E."""
        return self.dataset.rows

    @property
    def users(self) -> int:
        """How many users there are."""
        return len(self.dataset.users)

    @cached_property
    def test_users(self) -> Ints:
        """The user of each test click: [V]."""
        return self.dataset.log.users[self.dataset.of(Phase.TEST)]

    def known(self, *, fresh: bool = True) -> Known:
        """What is known before each click, as it is served."""
        if fresh not in self._known:
            log = served(self.dataset.log, self.dataset.phase, self.protocol)
            self._known[fresh] = Known.of(log, self.protocol, fresh=fresh)
        return self._known[fresh]

    def lists(self, phase: Phase) -> Lists:
        """The candidates of the clicks of `phase`."""
        if phase not in self._lists:
            self._lists[phase] = lists.lists(self.dataset, self.dataset.of(phase), self.protocol)
        return self._lists[phase]

    def ranks(self, score: Score, phase: Phase = Phase.TEST, *, fresh: bool = True, strangers: bool = False) -> Ints:
        """The rank of each click of `phase`: [V], user by user. `strangers`: each sees exposures of another user.

        Test clicks are scored as the stream does it, where the net is one of a release.
        """
        of_phase, known = self.lists(phase), self.known(fresh=fresh)

        def queries(some: Ints) -> Queries:
            asked = known(of_phase.clicks[some])
            return known.swapped(asked, of_phase.clicks[others[some]]) if strangers else asked

        others = self._others(of_phase) if strangers else np.empty(0, np.int64)
        if isinstance(score, Variant) and phase is Phase.TEST:
            score = ServedVariant(score)
        return lists.ranks(score, queries, of_phase)

    def _others(self, of_phase: Lists) -> Ints:
        """For each click, the place of a click of another user: users are moved along by half of all."""
        users = self.dataset.log.users[of_phase.clicks]
        first = np.searchsorted(users, np.unique(users))
        ahead = len(first) // 2 or 1
        number = np.unique(users, return_inverse=True)[1]
        return first[(number + ahead) % len(first)]

    def fit(
        self,
        name: str,
        net: nn.Module,
        recipe: Recipe,
        seed: int,
        some: tuple[Phase, ...],
        *,
        after: str = "",
        fresh: bool = True,
        devices: int = 0,
    ) -> str:
        """Fit what wants a gradient in `net` on the clicks of some phases. Returns the fit's identity.

        With `recipe.ahead` its item tables start as item2vec has them, fitted on the same phases.

        `name` is the fit's, for all seeds; `after` is the identity of the fit whose weights `net` starts from.
        `devices`: the fit is federated, with that many devices a round.
        """
        loss = bind_catalogue_size(recipe.loss, len(self.dataset.items))
        if isinstance(net, Sequential) and not after:
            net.rest(prior_logit(loss, recipe.negatives))
        if recipe.ahead:
            after += self._taught(net, recipe, seed, some)
        draw: minibatches.Draw = minibatches.of_net(net, self.dataset, self.protocol, recipe, some, fresh=fresh)
        minimised = objective(net, loss)
        if devices:
            draw, minimised = minibatches.of_devices(draw, devices), FedAvg(minimised, FedAvgConfig())
        chosen = {"recipe": recipe.settings(), "phases": [int(phase) for phase in some], "fresh": fresh}
        if devices:
            chosen["devices"] = devices
        digest = identity({"name": name, "seed": seed, "after": after, "of": self.identity, **chosen})
        keep = self._fits / f"{name.replace(' ', '_')}-{seed}-{digest}.safetensors"
        if self._kept_only:
            draw = refusing(name)
        clock = Clock(keep.with_suffix(".json"))

        def progress(epoch: int, loss: float, score: float) -> None:
            clock.tick(epoch)
            self._told(f"{name} seed {seed}", epoch, loss, score)

        fitted = fit(
            minimised,
            draw,
            lambda: metrics(self.ranks(net, Phase.VALIDATION, fresh=fresh))["ndcg@10"],
            FitConfig(recipe.learning_rate, recipe.l2, recipe.epochs, recipe.patience, recipe.bf16),
            seed,
            keep=keep,
            progress=progress,
        )
        self.spent.seconds += sum(clock.seconds[: len(fitted.curve)])
        self.spent.epochs += len(fitted.curve)
        self.spent.curves[name] = [round(score, 5) for score in fitted.curve]
        return digest

    def _taught(self, net: nn.Module, recipe: Recipe, seed: int, some: tuple[Phase, ...]) -> str:
        """Give the item tables of `net` what item2vec has learnt; the identity of its fit."""
        own = replace(AHEAD, dim=recipe.dim, epochs=min(recipe.epochs, AHEAD.epochs))
        teacher, digest = self.item2vec(own, seed, some)
        assert isinstance(net, Sequential | FM | NeuMF | Variant)
        with torch.no_grad():
            for table in net.item_tables:
                table.copy_(teacher.items.weight)
        return digest

    def item2vec(self, recipe: Recipe, seed: int, some: tuple[Phase, ...]) -> tuple[Item2Vec, str]:
        """Item2vec and the identity of its fit: a slow net where it learns from the slow phase alone."""
        torch.manual_seed(seed)
        config = Item2VecConfig(recipe.dim, self.protocol.history, self.protocol.recent)
        net = Item2Vec(config, self.rows, recent if Phase.FAST in some else delayed)
        return net, self.fit("item2vec", net, recipe, seed, some)


def identity(values: dict[str, Any]) -> str:
    """A short name of a setting: another setting has another one."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=5).hexdigest()


def popularity(bench: Bench) -> Score:
    """How often each item was clicked in the training phases."""
    log, dataset = bench.dataset.log, bench.dataset
    counts = np.bincount(log.keys[dataset.of(Phase.SLOW, Phase.FAST)], minlength=dataset.rows)
    table = torch.from_numpy(counts.astype(np.float32))
    return lambda _, items: table[items]
