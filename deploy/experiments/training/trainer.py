"""The trainer: fits nets on one dataset under one protocol, stores the fits, and ranks the evaluated clicks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import nn

from deploy.experiments.data.candidate_lists import CandidateLists, Score, draw_candidates, ranks
from deploy.experiments.data.dataset import Dataset
from deploy.experiments.data.known_history import KnownHistory
from deploy.experiments.data.protocol import Phase, Protocol, cut_as_served
from deploy.experiments.results.result import Settings
from deploy.experiments.training import minibatches
from deploy.experiments.training.fit_cache import EpochTimer, missing_fit
from deploy.experiments.training.hyperparameters import ITEM2VEC, Hyperparameters
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
from streams.plugins.plugin import is_name, named

EpochProgress = Callable[[str, int, float, float], None]  # fit, epoch, loss, validation NDCG@10


class TrainerIdentity(TypedDict):
    """The digest of the dataset and the protocol, which are part of the names of stored fits and cells."""

    dataset: str
    protocol: Settings


@dataclass
class TrainingCost:
    """The cost of the fits of a model, and their validation curves."""

    seconds: float = 0.0
    epochs: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)

    def clear(self) -> None:
        """Set everything to zero."""
        self.seconds, self.epochs, self.curves = 0.0, 0, {}


class Trainer:
    """Fit nets on the training phases of a dataset, choose epochs on its validation phase, rank its test phase."""

    def __init__(
        self,
        dataset: Dataset,
        protocol: Protocol,
        fits: Path,
        progress: EpochProgress = lambda *_: None,
        *,
        cached_only: bool = False,
    ) -> None:
        """Store fits in the folder `fits`, so that interrupted runs resume and models share the fit of a slow net.

        `cached_only`: raise FitMissing for a fit that is missing or unfinished, instead of computing it.
        """
        self.dataset = dataset
        self.protocol = protocol
        self.cost = TrainingCost()
        settings: Settings = asdict(protocol)
        if is_name(protocol.candidates):  # another code draws other lists
            settings["candidates"] = named("candidates", protocol.candidates).setting
        self.identity: TrainerIdentity = {"dataset": dataset.digest, "protocol": settings}
        self._fits = fits
        self._progress = progress
        self._cached_only = cached_only
        self._known: dict[bool, KnownHistory] = {}
        self._lists: dict[Phase, CandidateLists] = {}

    @property
    def protocol_record(self) -> Settings:
        """The protocol for result files, with the exposures and positives that the source determined."""
        return asdict(self.protocol) | {"exposures": self.dataset.policy, "positives": self.dataset.positives}

    @property
    def rows(self) -> int:
        """Rows of E."""
        return self.dataset.rows

    @property
    def users(self) -> int:
        """The number of users."""
        return len(self.dataset.users)

    @cached_property
    def test_users(self) -> Ints:
        """The user of each test click: [V]."""
        return self.dataset.log.users[self.dataset.clicks(Phase.TEST)]

    def known_history(self, *, fresh: bool = True) -> KnownHistory:
        """Return the known history of each click, as it is served."""
        if fresh not in self._known:
            log = cut_as_served(self.dataset.log, self.dataset.phase, self.protocol)
            self._known[fresh] = KnownHistory.of(log, self.protocol, fresh=fresh)
        return self._known[fresh]

    def candidate_lists(self, phase: Phase) -> CandidateLists:
        """Return the candidate lists of the clicks of `phase`."""
        if phase not in self._lists:
            self._lists[phase] = draw_candidates(self.dataset, self.dataset.clicks(phase), self.protocol)
        return self._lists[phase]

    def ranks(
        self, score: Score, phase: Phase = Phase.TEST, *, fresh: bool = True, shuffled_users: bool = False
    ) -> Ints:
        """Return the rank of each click of `phase`, user by user: [V].

        `shuffled_users`: each user gets the exposures of another one. Test clicks are scored as the stream scores them,
        if the net is one of a release.
        """
        lists, known = self.candidate_lists(phase), self.known_history(fresh=fresh)
        others = self._others(lists) if shuffled_users else np.empty(0, np.int64)

        def queries(batch: Ints) -> Queries:
            own = known.queries(lists.clicks[batch])
            return known.swapped(own, lists.clicks[others[batch]]) if shuffled_users else own

        if isinstance(score, Variant) and phase is Phase.TEST:
            score = ServedVariant(score)
        return ranks(score, queries, lists)

    def _others(self, lists: CandidateLists) -> Ints:
        """Return for each list the number of a list of another user: users are shifted by half of their number."""
        users = self.dataset.log.users[lists.clicks]
        first = np.searchsorted(users, np.unique(users))
        ahead = len(first) // 2 or 1
        number = np.unique(users, return_inverse=True)[1]
        return first[(number + ahead) % len(first)]

    def fit(
        self,
        name: str,
        net: nn.Module,
        params: Hyperparameters,
        seed: int,
        phases: tuple[Phase, ...],
        *,
        after: str = "",
        fresh: bool = True,
        devices: int = 0,
    ) -> str:
        """Fit the parameters of `net` that take a gradient on the clicks of `phases`. Return the fit's identity.

        With `params.ahead`, item tables are initialised from an item2vec that is fitted on the same phases.

        `name`: of the fit, for all seeds. `after`: the identity of the fit whose weights `net` starts from.
        `devices`: fit by federated averaging with this number of devices per round.
        """
        loss = bind_catalogue_size(params.loss, len(self.dataset.items))
        if isinstance(net, Sequential) and not after:
            net.set_bias(prior_logit(loss, params.negatives))
        if params.ahead:
            after += self._initialise_items(net, params, seed, phases)
        draw: minibatches.Draw = minibatches.of_net(net, self.dataset, self.protocol, params, phases, fresh=fresh)
        minimised = objective(net, loss)
        if devices:
            draw, minimised = minibatches.of_devices(draw, devices), FedAvg(minimised, FedAvgConfig())
        chosen = {"recipe": params.settings(), "phases": [int(phase) for phase in phases], "fresh": fresh}
        if devices:
            chosen["devices"] = devices
        digest = identity({"name": name, "seed": seed, "after": after, "of": self.identity, **chosen})
        keep = self._fits / f"{name.replace(' ', '_')}-{seed}-{digest}.safetensors"
        if self._cached_only:
            draw = missing_fit(name)
        clock = EpochTimer(keep.with_suffix(".json"))

        def progress(epoch: int, loss: float, score: float) -> None:
            clock.tick(epoch)
            self._progress(f"{name} seed {seed}", epoch, loss, score)

        fitted = fit(
            minimised,
            draw,
            lambda: metrics(self.ranks(net, Phase.VALIDATION, fresh=fresh))["ndcg@10"],
            FitConfig(params.learning_rate, params.l2, params.epochs, params.patience, params.bf16),
            seed,
            state_file=keep,
            progress=progress,
        )
        self.cost.seconds += sum(clock.seconds[: len(fitted.curve)])
        self.cost.epochs += len(fitted.curve)
        self.cost.curves[name] = [round(score, 5) for score in fitted.curve]
        return digest

    def _initialise_items(self, net: nn.Module, params: Hyperparameters, seed: int, phases: tuple[Phase, ...]) -> str:
        """Copy item2vec's item table to those of `net`. Return the identity of item2vec's fit."""
        own = replace(ITEM2VEC, dim=params.dim, epochs=min(params.epochs, ITEM2VEC.epochs))
        source, digest = self.item2vec(own, seed, phases)
        assert isinstance(net, Sequential | FM | NeuMF | Variant)
        with torch.no_grad():
            for table in net.item_tables:
                table.copy_(source.items.weight)
        return digest

    def item2vec(self, params: Hyperparameters, seed: int, phases: tuple[Phase, ...]) -> tuple[Item2Vec, str]:
        """Return item2vec and the identity of its fit. It is a slow net if it is fitted on the slow phase alone."""
        torch.manual_seed(seed)
        config = Item2VecConfig(params.dim, self.protocol.history, self.protocol.recent)
        net = Item2Vec(config, self.rows, recent if Phase.FAST in phases else delayed)
        return net, self.fit("item2vec", net, params, seed, phases)


def identity(values: Mapping[str, object]) -> str:
    """Return a short hash of a setting, for the name of its stored fit or cell."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=5).hexdigest()


def popularity(trainer: Trainer) -> Score:
    """Return a score of items by their number of clicks in the training phases."""
    log, dataset = trainer.dataset.log, trainer.dataset
    counts = np.bincount(log.keys[dataset.clicks(Phase.SLOW, Phase.FAST)], minlength=dataset.rows)
    table = torch.from_numpy(counts.astype(np.float32))
    return lambda _, items: table[items]
