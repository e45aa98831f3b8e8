"""The clicks that each model learns from, is chosen on and knows: changes of any others change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deploy.experiments.data.candidate_lists import Score
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.definitions.catalogue import EXPERIMENTS
from deploy.experiments.definitions.experiment import Request
from deploy.experiments.training.models import Model
from deploy.experiments.training.trainer import Trainer, popularity
from models.data.catalogue import FIRST_ROW
from replay.sources.source import parse
from tests.support.experiments import QUICK_SET, SMALL, trainer

# one epoch: there is nothing to choose
ONE_EPOCH = QUICK_SET.varied(QUICK_SET.settings(), epochs=1, power=0.5)
MODELS: dict[str, Model] = {
    arm.model.name: arm.model
    for experiment in EXPERIMENTS
    for arm in experiment.arms(Request(parse("log:x"), Protocol()))
    if arm.model.name != "popularity"
}
SLOW = ["DIN", "DIN w/ F2S", "DIN w/ F2S, served", "SASRec", "Caser", "HSTU"]


def changed(one: Trainer, folder: Path, *some: Phase) -> Trainer:
    """The same trainer, but with the clicks of some phases on other items."""
    keys = one.dataset.log.keys.copy()
    places = one.dataset.clicks(*some)
    keys[places] = FIRST_ROW + (keys[places] - FIRST_ROW + 7) % len(one.dataset.items)
    return type(one)(replace(one.dataset, log=replace(one.dataset.log, keys=keys)), one.protocol, folder / "fits")


def weights(net: Score) -> dict[str, Any]:
    assert isinstance(net, nn.Module)
    chosen = "stack"  # weights of a sum, chosen on validation clicks as the number of epochs is
    return {name: weight.numpy().tobytes() for name, weight in net.state_dict().items() if name != chosen}


class Indifferent(Trainer):
    """A trainer that finds all nets equal on validation clicks: nothing is chosen by them."""

    def ranks(self, score: Score, phase: Phase = Phase.TEST, **more: Any) -> Any:
        ranks = super().ranks(score, phase, **more)
        return np.ones_like(ranks) if phase is Phase.VALIDATION else ranks


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_no_weight_depends_on_validation_or_test_clicks(tmp_path: Path, model: Model) -> None:
    one = trainer(tmp_path, kind=Indifferent, users=8)
    fitted = weights(model.fit(one, ONE_EPOCH, 1))
    other = changed(one, tmp_path / "other", Phase.VALIDATION, Phase.TEST)
    assert weights(model.fit(other, ONE_EPOCH, 1)) == fitted


@pytest.mark.parametrize("name", SLOW)
def test_slow_nets_do_not_know_what_came_after_the_slow_phase(tmp_path: Path, name: str) -> None:
    one, model = trainer(tmp_path, users=8), MODELS[name]
    other = changed(one, tmp_path / "other", Phase.FAST, Phase.VALIDATION)
    net = model.fit(one, ONE_EPOCH, 1)
    tested = one.candidate_lists(Phase.TEST)
    request, items = tested.clicks, torch.from_numpy(tested.items)
    with torch.inference_mode():
        scores = [net(trainer.known_history(fresh=model.fresh).queries(request), items) for trainer in (one, other)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - set(SLOW)))
def test_fast_nets_learn_from_the_fast_phase(tmp_path: Path, name: str) -> None:
    one, model = trainer(tmp_path, users=8), MODELS[name]
    other = changed(one, tmp_path / "other", Phase.FAST)
    assert weights(model.fit(other, ONE_EPOCH, 1)) != weights(model.fit(one, ONE_EPOCH, 1))


class Watched(Trainer):
    """A trainer that keeps each fit as it was requested, and what clicks were ranked on."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.fits: list[tuple[str, tuple[Phase, ...], bool]] = []
        self.ranked: set[tuple[Phase, bool]] = set()

    def fit(self, name: str, net: nn.Module, params: Any, seed: int, phases: tuple[Phase, ...], **more: Any) -> str:
        self.fits.append((name, phases, more.get("fresh", True)))
        return super().fit(name, net, params, seed, phases, **more)

    def ranks(self, score: Score, phase: Phase = Phase.TEST, *, fresh: bool = True, **more: Any) -> Any:
        self.ranked.add((phase, fresh))
        return super().ranks(score, phase, fresh=fresh, **more)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("MC2-SF", ("MC2-SF", (Phase.FAST,), True)),
        ("MC2-SF, served", ("MC2-SF", (Phase.FAST,), False)),
        ("DIN+GRU4Rec", ("DIN+GRU4Rec", (Phase.FAST,), True)),
        ("fast alone, fine-tuned", ("fast alone tuned", (Phase.FAST,), True)),
        ("GRU4Rec, fine-tuned", ("GRU4Rec tuned", (Phase.FAST,), True)),
        ("DIN w/ F2S, served", ("DIN w F2S", (Phase.SLOW,), False)),
    ],
)
def test_what_is_told_something_learns_that_where_the_slow_net_did_not(
    tmp_path: Path, name: str, last: tuple[str, tuple[Phase, ...], bool]
) -> None:
    one = trainer(tmp_path, kind=Watched, users=8)
    assert isinstance(one, Watched)
    MODELS[name].fit(one, ONE_EPOCH, 1)
    assert one.fits[-1] == last
    slow = [fit for fit in one.fits if fit[0].startswith("DIN") and "+" not in fit[0]]
    assert slow == [(fit, (Phase.SLOW,), last[2]) for fit, *_ in slow]


@pytest.mark.parametrize("name", ["FM", "MC2-SF", "MC2-SF, served"])
def test_epochs_are_chosen_on_validation_clicks_as_they_are_served(tmp_path: Path, name: str) -> None:
    one = trainer(tmp_path, kind=Watched, users=8)
    assert isinstance(one, Watched)
    MODELS[name].fit(one, QUICK_SET, 1)
    assert {phase for phase, _ in one.ranked} == {Phase.VALIDATION}
    assert (Phase.VALIDATION, MODELS[name].fresh) in one.ranked


def test_popularity_and_popular_candidates_count_no_test_clicks(tmp_path: Path) -> None:
    one = trainer(tmp_path, replace(SMALL, candidates="popularity"))
    tested = one.dataset.clicks(Phase.TEST)
    of_others = one.dataset.log.users[tested] > 0
    keys = one.dataset.log.keys.copy()
    keys[tested[~of_others]] = FIRST_ROW  # the first user's
    other = Trainer(replace(one.dataset, log=replace(one.dataset.log, keys=keys)), one.protocol, tmp_path / "other")
    request, items = one.known_history().queries(tested[:1]), torch.arange(one.rows)[None]
    assert torch.equal(popularity(one)(request, items), popularity(other)(request, items))
    lists = (trainer.candidate_lists(Phase.TEST).items[of_others] for trainer in (one, other))
    assert np.array_equal(*lists)
