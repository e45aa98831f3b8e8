"""An experiment's fitted nets as the release of a run, and its ranks, which the run must give again.

The nets of MC2-SF in the experiment do not share one encoder: DIN, fast alone and S2F keep those that they were fitted
with. The release has F2S's encoder and slow part, which r2 and the priors are made with, and the others apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from deploy.experiments.data.candidate_lists import Lists
from deploy.experiments.data.protocol import Phase
from deploy.experiments.definitions.experiment import Arm
from deploy.experiments.runner.runner import Benches, cell_of
from deploy.experiments.streaming.source import Streamed
from deploy.experiments.training.fit_cache import FitMissing
from deploy.experiments.training.models import DIN_ROW, F2S_SERVED_ROW, FAST_ROW, MC2SF_SERVED_ROW
from deploy.experiments.training.trainer import Bench
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

ROWS = (DIN_ROW, F2S_SERVED_ROW, FAST_ROW, MC2SF_SERVED_ROW)


class Unlike(NamedTuple):
    """Something of a test click that is not as in the experiment; `click` counts the user's test clicks from 0."""

    user: str
    click: int
    what: str
    online: object
    experiment: object


@dataclass(frozen=True)
class Given:
    """What a run begins with, the settings that it needs, and what must come of it."""

    draft: Draft
    settings: dict[str, Any]
    users: list[str]  # of each test click
    lists: list[tuple[bytes, int]]  # of each test click: item keys, and the place of the click among them
    ranks: dict[str, Ints]  # variant -> rank of each test click

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The experiment's figures."""
        return {variant: metrics(ranks) for variant, ranks in self.ranks.items()}

    def differences(self, connection: sa.Connection, run: str) -> list[Unlike]:
        """Compare every outcome of `run`: the list, the click's place in it, and the rank by each variant."""
        return list(self._compared(connection, run))

    def _compared(self, connection: sa.Connection, run: str) -> Iterator[Unlike]:
        o = schema.outcomes.c
        query = sa.select(o.user, o.candidates, o.target_index, o.ranks).where(o.run == run).order_by(o.user, o.seq)
        online = {user: list(rows) for user, rows in groupby(connection.execute(query), lambda row: str(row.user))}
        for user, places in groupby(range(len(self.users)), self.users.__getitem__):
            mine = list(places)
            rows = online.pop(user, [])
            if len(rows) != len(mine):
                yield Unlike(user, 0, "clicks ranked", len(rows), len(mine))
                continue
            for click, (row, i) in enumerate(zip(rows, mine, strict=True)):
                if (bytes(row.candidates), row.target_index) != self.lists[i]:
                    yield Unlike(user, click, "list", "another", "its own")
                for variant, ranks in self.ranks.items():
                    if row.ranks.get(variant) != ranks[i]:
                        yield Unlike(user, click, variant, row.ranks.get(variant), int(ranks[i]))
        for user, rows in online.items():
            yield Unlike(user, 0, "clicks ranked", len(rows), 0)


def given(text: str) -> Given:
    """The fits of the experiment that `text` names. Raises UserError where they are not there."""
    streamed = Streamed.of(text)
    asked, seed, work = streamed.asked, streamed.choice.seed, streamed.choice.work
    bench = Benches(asked, work, kept_only=True).of(asked.protocol)
    forms, ranks = {}, {}
    try:
        for row in ROWS:
            form = row.fit(bench, asked.recipes, seed)
            assert isinstance(form, Variant)
            forms[form.served_as] = form
            arm = Arm(row.name, row, asked.protocol, asked.recipes)
            ranks[form.served_as] = cell_of(arm, seed, bench, work / "cells").ranks
    except FitMissing as missing:
        raise UserError(f"{missing} in {work}. Run this first:\n  {_command(streamed)}") from missing
    protocol, config = asked.protocol, forms["f2s"].nets.config
    of_test = bench.lists(Phase.TEST)
    catalogue = Catalogue([item_key(item) for item in bench.dataset.items])
    settings = {
        "frozen": True,
        "evaluate": 1.0,
        "history_long": protocol.history,
        "history_short": protocol.short,
        "threshold": protocol.threshold,
        "dim": config.dim,
    }
    users = [bench.dataset.users[user] for user in bench.test_users]
    draft = _draft(forms, catalogue, f"fitted by {_command(streamed)}", _boundary(bench))
    return Given(draft, settings, users, list(_lists(of_test, catalogue)), ranks)


def _draft(forms: dict[str, Variant], catalogue: Catalogue, reason: str, trained_until: int) -> Draft:
    cloud, device = forms["f2s"].nets, forms["mc2sf"].nets
    shared = Nets(cloud.config, len(cloud.encoder.E))
    shared.encoder, shared.slow, shared.fast = cloud.encoder, cloud.slow, device.fast
    apart = {"din": forms["din"].nets, "alone": forms["fast"].nets, "s2f": device}
    parts = pack(shared) | {form: pack_standalone(nets, form) for form, nets in apart.items()}
    items = ItemTable.of(catalogue, cloud.encoder.E.detach().numpy())
    return Draft("initial", None, -1, parts, items, trained_until, {}, {"reason": reason})


def _boundary(bench: Bench) -> int:
    """Event time at which the slow phases are over, in the stream."""
    return int(bench.dataset.log.times.max())


def _lists(of_test: Lists, catalogue: Catalogue) -> Iterator[tuple[bytes, int]]:
    for items, place in zip(of_test.items, of_test.places.tolist(), strict=True):
        keys = catalogue.keys[items[items != ROW_PADDING] - FIRST_ROW]
        yield np.ascontiguousarray(keys, "<i8").tobytes(), place


def _command(streamed: Streamed) -> str:
    """The experiment that makes the fits."""
    choice = streamed.choice
    words = f"mc2sf experiment ablation --data {streamed.asked.source.text} --seeds {choice.seed} --work {choice.work}"
    options = {"--users": choice.users, "--epochs": choice.epochs}
    return words + "".join(f" {name} {value}" for name, value in options.items() if value)
