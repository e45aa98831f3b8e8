"""An experiment's fitted nets as the initial release of a run, and its ranks, which the run must reproduce.

The nets of MC2-SF in the experiment do not share one encoder: DIN, fast alone and S2F were fitted with one each. The
release has F2S's encoder and slow part, which compute r2 and the priors, and the other nets as standalone nets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from deploy.experiments.data.candidate_lists import CandidateLists
from deploy.experiments.data.protocol import Phase
from deploy.experiments.definitions.experiment import Arm
from deploy.experiments.runner.runner import Trainers, cell_of
from deploy.experiments.streaming.source import StreamRequest
from deploy.experiments.training.fit_cache import FitMissing
from deploy.experiments.training.models import DIN_MODEL, F2S_SERVED_MODEL, FAST_MODEL, MC2SF_SERVED_MODEL
from deploy.experiments.training.trainer import Trainer
from deploy.user_error import UserError
from models.data.catalogue import FIRST_ROW, ROW_PADDING, Catalogue
from models.data.interaction_log import Ints
from models.evaluation.metrics import metrics
from models.mc2sf.checkpoint import pack, pack_standalone
from models.mc2sf.nets import Nets
from models.mc2sf.variants import Variant
from streams.database import schema
from streams.records import item_key
from streams.releases.registry import Draft
from streams.releases.release import ItemTable

MODELS = (DIN_MODEL, F2S_SERVED_MODEL, FAST_MODEL, MC2SF_SERVED_MODEL)


class Mismatch(NamedTuple):
    """A difference between the run and the experiment; `click` counts the user's test clicks from 0."""

    user: str
    click: int
    what: str
    online: object
    experiment: object


@dataclass(frozen=True)
class InitialRelease:
    """The initial release of a run, the settings that it needs, and the expected lists and ranks."""

    draft: Draft
    settings: dict[str, Any]  # keyword arguments of Settings
    users: list[str]  # of each test click
    lists: list[tuple[bytes, int]]  # of each test click: item keys, and the index of the click among them
    ranks: dict[str, Ints]  # variant -> rank of each test click

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The metrics of the experiment by variant."""
        return {variant: metrics(ranks) for variant, ranks in self.ranks.items()}

    def differences(self, connection: sa.Connection, run: str) -> list[Mismatch]:
        """Compare every outcome of `run`: the list, the index of the click in it, and the rank by each variant."""
        return list(self._compared(connection, run))

    def _compared(self, connection: sa.Connection, run: str) -> Iterator[Mismatch]:
        o = schema.outcomes.c
        query = sa.select(o.user, o.candidates, o.target_index, o.ranks).where(o.run == run).order_by(o.user, o.seq)
        online = {user: list(rows) for user, rows in groupby(connection.execute(query), lambda row: str(row.user))}
        for user, numbers in groupby(range(len(self.users)), self.users.__getitem__):
            mine = list(numbers)
            rows = online.pop(user, [])
            if len(rows) != len(mine):
                yield Mismatch(user, 0, "clicks ranked", len(rows), len(mine))
                continue
            for click, (row, i) in enumerate(zip(rows, mine, strict=True)):
                if (bytes(row.candidates), row.target_index) != self.lists[i]:
                    yield Mismatch(user, click, "list", "another", "its own")
                for variant, ranks in self.ranks.items():
                    if row.ranks.get(variant) != ranks[i]:
                        yield Mismatch(user, click, variant, row.ranks.get(variant), int(ranks[i]))
        for user, rows in online.items():
            yield Mismatch(user, 0, "clicks ranked", len(rows), 0)


def initial_release(text: str) -> InitialRelease:
    """Return the initial release of the fits that `text` names. Raises UserError if they are missing."""
    stream = StreamRequest.of(text)
    request, seed, work = stream.request, stream.selection.seed, stream.selection.work
    trainer = Trainers(request, work, cached_only=True).of(request.protocol)
    forms, ranks = {}, {}
    try:
        for model in MODELS:
            form = model.fit(trainer, request.hyperparameters, seed)
            assert isinstance(form, Variant)
            forms[form.served_as] = form
            arm = Arm(model.name, model, request.protocol, request.hyperparameters)
            ranks[form.served_as] = cell_of(arm, seed, trainer, work / "cells").ranks
    except FitMissing as missing:
        raise UserError(f"{missing} in {work}. Run this first:\n  {_command(stream)}") from missing
    protocol, config = request.protocol, forms["f2s"].nets.config
    catalogue = Catalogue([item_key(item) for item in trainer.dataset.items])
    settings = {
        "frozen": True,
        "evaluate": 1.0,
        "history_long": protocol.history,
        "history_short": protocol.short,
        "threshold": protocol.threshold,
        "dim": config.dim,
    }
    users = [trainer.dataset.users[user] for user in trainer.test_users]
    draft = _draft(forms, catalogue, f"fitted by {_command(stream)}", _boundary(trainer))
    return InitialRelease(draft, settings, users, list(_lists(trainer.candidate_lists(Phase.TEST), catalogue)), ranks)


def _draft(forms: dict[str, Variant], catalogue: Catalogue, reason: str, trained_until: int) -> Draft:
    cloud, device = forms["f2s"].nets, forms["mc2sf"].nets
    shared = Nets(cloud.config, len(cloud.encoder.E))
    shared.encoder, shared.slow, shared.fast = cloud.encoder, cloud.slow, device.fast
    standalone = {"din": forms["din"].nets, "alone": forms["fast"].nets, "s2f": device}
    parts = pack(shared) | {form: pack_standalone(nets, form) for form, nets in standalone.items()}
    items = ItemTable.of(catalogue, cloud.encoder.E.detach().numpy())
    return Draft("initial", None, -1, parts, items, trained_until, {}, {"reason": reason})


def _boundary(trainer: Trainer) -> int:
    """Return the event time of the stream at which all slow phases have ended."""
    return int(trainer.dataset.log.times.max())


def _lists(lists: CandidateLists, catalogue: Catalogue) -> Iterator[tuple[bytes, int]]:
    for items, target in zip(lists.items, lists.target_index.tolist(), strict=True):
        keys = catalogue.keys[items[items != ROW_PADDING] - FIRST_ROW]
        yield np.ascontiguousarray(keys, "<i8").tobytes(), target


def _command(stream: StreamRequest) -> str:
    """Return the command of the experiment that makes the fits."""
    selection, source = stream.selection, stream.request.source.text
    words = f"mc2sf experiment ablation --data {source} --seeds {selection.seed} --work {selection.work}"
    options = {"--users": selection.users, "--epochs": selection.epochs}
    return words + "".join(f" {name} {value}" for name, value in options.items() if value)
