"""Which clicks each row learns from, is chosen on and knows: what it must not see is changed, and nothing follows."""

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
from deploy.experiments.definitions.experiment import Asked
from deploy.experiments.training import composite_models
from deploy.experiments.training.models import Row
from deploy.experiments.training.trainer import Bench, popularity
from models.data.catalogue import FIRST_ROW
from replay.sources.source import parse
from tests.support.experiments import RECIPES, SMALL, bench

torch.set_num_threads(1)
# one epoch: there is nothing to choose
RECIPES_ONCE = RECIPES.varied(RECIPES.settings(), epochs=1, power=0.5)
ROWS: dict[str, Row] = {
    arm.row.name: arm.row
    for experiment in EXPERIMENTS
    for arm in experiment.arms(Asked(parse("log:x"), Protocol()))
    if arm.row.name != "popularity"
}
SLOW = ["DIN", "DIN w/ F2S", "DIN w/ F2S, served", "SASRec", "Caser", "HSTU"]


def changed(one: Bench, folder: Path, *some: Phase) -> Bench:
    """The same bench, but that the clicks of some phases are on other items."""
    keys = one.dataset.log.keys.copy()
    places = one.dataset.of(*some)
    keys[places] = FIRST_ROW + (keys[places] - FIRST_ROW + 7) % len(one.dataset.items)
    return Bench(replace(one.dataset, log=replace(one.dataset.log, keys=keys)), one.protocol, folder / "fits")


def weights(net: Score) -> dict[str, Any]:
    assert isinstance(net, nn.Module)
    return {name: weight.numpy().tobytes() for name, weight in net.state_dict().items()}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_no_weight_depends_on_validation_or_test_clicks(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        composite_models, "BEGIN", (0.3,)
    )  # else chosen on validation clicks, as the number of epochs is
    one = bench(tmp_path)
    fitted = weights(row.fit(one, RECIPES_ONCE, 1))
    other = changed(one, tmp_path / "other", Phase.VALIDATION, Phase.TEST)
    assert weights(row.fit(other, RECIPES_ONCE, 1)) == fitted


@pytest.mark.parametrize("name", SLOW)
def test_slow_nets_do_not_know_what_came_after_the_slow_phase(tmp_path: Path, name: str) -> None:
    one, row = bench(tmp_path), ROWS[name]
    other = changed(one, tmp_path / "other", Phase.FAST, Phase.VALIDATION)
    net = row.fit(one, RECIPES_ONCE, 1)
    tested = one.lists(Phase.TEST)
    asked, items = tested.clicks, torch.from_numpy(tested.items)
    with torch.inference_mode():
        scores = [net(bench.known(fresh=row.fresh)(asked), items) for bench in (one, other)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("name", sorted(ROWS.keys() - set(SLOW)))
def test_fast_nets_learn_from_the_fast_phase(tmp_path: Path, name: str) -> None:
    one, row = bench(tmp_path), ROWS[name]
    other = changed(one, tmp_path / "other", Phase.FAST)
    assert weights(row.fit(other, RECIPES_ONCE, 1)) != weights(row.fit(one, RECIPES_ONCE, 1))


def fits(one: Bench, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Phase, ...], bool]]:
    """Each fit as it was asked for, filled while rows are fitted."""
    found: list[tuple[str, tuple[Phase, ...], bool]] = []
    fit = one.fit

    def spied(name: str, net: nn.Module, recipe: Any, seed: int, some: tuple[Phase, ...], **options: Any) -> str:
        found.append((name, some, options.get("fresh", True)))
        return fit(name, net, recipe, seed, some, **options)

    monkeypatch.setattr(one, "fit", spied)
    return found


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, last: tuple[str, tuple[Phase, ...], bool]
) -> None:
    one = bench(tmp_path)
    asked = fits(one, monkeypatch)
    ROWS[name].fit(one, RECIPES_ONCE, 1)
    assert asked[-1] == last
    slow = [fit for fit in asked if fit[0].startswith("DIN") and "+" not in fit[0]]
    assert slow == [(fit, (Phase.SLOW,), last[2]) for fit, *_ in slow]


@pytest.mark.parametrize("name", ["FM", "MC2-SF", "MC2-SF, served"])
def test_epochs_are_chosen_on_validation_clicks_as_they_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    one = bench(tmp_path)
    judged, ranks = set(), one.ranks

    def spied(score: Score, phase: Phase = Phase.TEST, *, fresh: bool = True) -> Any:
        judged.add((phase, fresh))
        return ranks(score, phase, fresh=fresh)

    monkeypatch.setattr(one, "ranks", spied)
    ROWS[name].fit(one, RECIPES, 1)
    assert {phase for phase, _ in judged} == {Phase.VALIDATION}
    assert (Phase.VALIDATION, ROWS[name].fresh) in judged


def test_popularity_and_popular_candidates_count_no_test_clicks(tmp_path: Path) -> None:
    one = bench(tmp_path, replace(SMALL, candidates="popularity"))
    tested = one.dataset.of(Phase.TEST)
    of_others = one.dataset.log.users[tested] > 0
    keys = one.dataset.log.keys.copy()
    keys[tested[~of_others]] = FIRST_ROW  # the first user's
    other = Bench(replace(one.dataset, log=replace(one.dataset.log, keys=keys)), one.protocol, tmp_path / "other")
    asked, items = one.known()(tested[:1]), torch.arange(one.rows)[None]
    assert torch.equal(popularity(one)(asked, items), popularity(other)(asked, items))
    lists = (bench.lists(Phase.TEST).items[of_others] for bench in (one, other))
    assert np.array_equal(*lists)
