from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from deploy.experiments.data.protocol import LEAVE_ONE_OUT, Phase, Protocol
from deploy.experiments.definitions.catalogue import ABLATION, EXPERIMENTS, TABLE2, TABLE3
from deploy.experiments.definitions.experiment import Arm, Asked, Experiment, plain
from deploy.experiments.results import page
from deploy.experiments.results.result import Result
from deploy.experiments.runner import runner
from deploy.experiments.runner.cells import Cell, Measured, load_or_compute
from deploy.experiments.runner.significance import by_user, compare
from deploy.experiments.training.composite_models import BEGIN, DIN_FM_ROW, DIN_GRU4REC_ROW, DIN_NEUMF_ROW
from deploy.experiments.training.hyperparameters import AHEAD, Recipes
from deploy.experiments.training.models import (
    DIN_ROW,
    FM_ROW,
    GRU4REC_ROW,
    MC2SF_ROW,
    NEUMF_ROW,
    SASREC_ROW,
    Row,
    fitted_din,
    fitted_f2s,
)
from deploy.experiments.training.trainer import Bench, popularity
from models.baselines.sequential import Sequential
from models.baselines.two_stage import TwoStage
from models.data.queries import Queries, delayed, recent
from models.evaluation.metrics import METRICS, metrics
from models.mc2sf.variants import DIN, MC2SF
from models.training.losses import bce, sampled_softmax
from replay.sources.source import parse
from tests.support.experiments import QUICK, RECIPES, SMALL, bench, written

torch.set_num_threads(1)


# fits ---------------------------------------------------------------------------------------------------------------


def test_a_fit_is_kept_and_another_recipe_is_another_fit(tmp_path: Path) -> None:
    told: list[str] = []
    first = bench(tmp_path)
    first._told = lambda fit, *_: told.append(fit)
    ranks = first.ranks(FM_ROW.fit(first, RECIPES, 1))
    assert len(told) == QUICK.epochs
    again = first.ranks(FM_ROW.fit(first, RECIPES, 1))
    assert len(told) == QUICK.epochs
    assert np.array_equal(ranks, again)
    FM_ROW.fit(first, replace(RECIPES, fm=replace(QUICK, learning_rate=0.02)), 1)
    assert len(told) == 2 * QUICK.epochs


def test_a_kept_fit_still_says_what_it_cost(tmp_path: Path) -> None:
    costs = []
    for _ in range(2):
        one = bench(tmp_path)
        FM_ROW.fit(one, RECIPES, 1)
        costs.append((one.spent.seconds, one.spent.epochs))
    assert costs[0] == costs[1]
    assert costs[0][0] > 0


def test_the_epoch_that_validation_clicks_like_best_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two, five = bench(tmp_path), bench(tmp_path)
    ranks = iter([50, 1, 50, 50, 50])  # after each epoch
    monkeypatch.setattr(five, "ranks", lambda *_, **__: np.array([next(ranks)]))
    best = FM_ROW.fit(five, replace(RECIPES, fm=replace(QUICK, epochs=5, patience=5)), 1)
    assert five.spent.curves["FM"] == [0, 1, 0, 0, 0]
    second = FM_ROW.fit(two, replace(RECIPES, fm=replace(QUICK, epochs=2)), 1)
    assert isinstance(best, torch.nn.Module)
    assert isinstance(second, torch.nn.Module)
    for name, weight in second.state_dict().items():
        assert torch.equal(weight, best.state_dict()[name])


def test_item_tables_start_as_item2vec_has_them_fitted_on_the_same_phases(tmp_path: Path) -> None:
    one = bench(tmp_path)
    still = replace(QUICK, learning_rate=0.0, epochs=1)
    slow, alone = (fitted_din(one, replace(RECIPES, din=replace(still, ahead=ahead)), 1)[0] for ahead in (True, False))
    as_teacher = replace(AHEAD, dim=QUICK.dim, epochs=1)
    teacher, _ = one.item2vec(as_teacher, 1, (Phase.SLOW,))
    assert teacher.reads is delayed
    assert torch.equal(slow.nets.encoder.E, teacher.items.weight)
    assert not torch.equal(alone.nets.encoder.E, teacher.items.weight)
    assert one.item2vec(as_teacher, 1, (Phase.SLOW, Phase.FAST))[0].reads is recent


def test_a_net_without_a_bias_in_common_begins_where_its_loss_rests(tmp_path: Path) -> None:
    one = bench(tmp_path)
    for loss, begins in ((bce, -math.log(QUICK.negatives)), (sampled_softmax, 0.0)):
        still = replace(RECIPES, sasrec=replace(QUICK, learning_rate=0.0, loss=loss))
        net = SASREC_ROW.fit(one, still, 1)
        assert isinstance(net, Sequential)
        bias = net.bias.weight.detach()
        torch.testing.assert_close(bias[1:], torch.full_like(bias[1:], begins), atol=1e-3, rtol=0)
        assert bias[0].item() == 0


def test_mc2sf_stands_on_the_fitted_slow_part_and_leaves_it_alone(tmp_path: Path) -> None:
    one = bench(tmp_path)
    slow, _ = fitted_f2s(one, RECIPES, 1)
    net = MC2SF_ROW.fit(one, RECIPES, 1)
    assert isinstance(net, MC2SF)
    assert net.cloud is not None
    for name, weight in slow.state_dict().items():
        assert torch.equal(weight, net.cloud.state_dict()[name])


NOT_FITTED = RECIPES.varied(("din_fm", "din_neumf", "din_gru4rec"), learning_rate=0.0, epochs=1)


@pytest.mark.parametrize(
    ("alone", "row"),
    [(FM_ROW, DIN_FM_ROW), (NEUMF_ROW, DIN_NEUMF_ROW), (GRU4REC_ROW, DIN_GRU4REC_ROW)],
    ids=lambda row: row.name,
)
def test_vanilla_starts_with_din_s_score_at_the_weight_that_validation_chooses(
    tmp_path: Path, alone: Row, row: Row
) -> None:
    one = bench(tmp_path)
    fast, slow = alone.fit(one, NOT_FITTED, 1), DIN_ROW.fit(one, NOT_FITTED, 1)
    net = row.fit(one, NOT_FITTED, 1)
    assert isinstance(net, TwoStage)
    assert isinstance(net.slow, DIN)
    chosen, of_sigmoid = net.fast.hint_weights.tolist()
    assert of_sigmoid == 0
    for name, weight in net.fast.named_parameters():
        if name == "hint_vectors":  # of FM: it has pairs with DIN's score too
            weight.data.zero_()

    def weighted(weight: float) -> Callable[[Queries, Tensor], Tensor]:
        return lambda queries, items: fast(queries, items) + weight * slow(queries, items)

    with torch.no_grad():
        clicks, items = one.lists(Phase.TEST).clicks[:5], torch.from_numpy(one.lists(Phase.TEST).items[:5])
        queries = one.known()(clicks)
        torch.testing.assert_close(net(queries, items), weighted(chosen)(queries, items), atol=1e-5, rtol=1e-5)
    if row is not DIN_FM_ROW:
        worth = {w: metrics(one.ranks(weighted(w), Phase.VALIDATION))["ndcg@10"] for w in BEGIN}
        assert len(set(worth.values())) > 1
        assert worth[round(chosen, 3)] == max(worth.values())


def test_exposures_of_strangers_change_what_reads_exposures_only(tmp_path: Path) -> None:
    one = bench(tmp_path)
    clicks, items = one.lists(Phase.TEST).clicks[:20], torch.from_numpy(one.lists(Phase.TEST).items[:20])
    known = one.known()
    queries = known(clicks)
    swapped = known.swapped(queries, clicks[::-1].copy())
    assert torch.equal(swapped.exposures, queries.exposures.flip(0))
    for row, reads in ((FM_ROW, False), (MC2SF_ROW, True)):
        net = row.fit(one, RECIPES, 1)
        with torch.no_grad():
            assert torch.equal(net(queries, items), net(swapped, items)) is not reads
        own = one.ranks(net)
        assert reads or np.array_equal(own, one.ranks(net, strangers=True))


def test_a_stranger_is_another_user(tmp_path: Path) -> None:
    one = bench(tmp_path, users=5)
    of = one.lists(Phase.TEST)
    users = one.dataset.log.users
    assert (users[of.clicks[one._others(of)]] != users[of.clicks]).all()


def test_popularity_counts_training_clicks_only(tmp_path: Path) -> None:
    one = bench(tmp_path)
    score = popularity(one)
    items = torch.arange(one.rows)[None]
    log = one.dataset.log
    expected = np.bincount(log.keys[one.dataset.of(Phase.SLOW, Phase.FAST)], minlength=one.rows)
    assert score(one.known()(one.dataset.of(Phase.TEST)[:1]), items)[0].tolist() == expected.tolist()


# cells --------------------------------------------------------------------------------------------------------------


def test_a_cell_is_computed_once_and_read_back_as_it_was(tmp_path: Path) -> None:
    cell = Cell("a b", 2, np.array([1, 7, 100]), 1.5, 3, Measured(validation={"x": [0.1]}))
    path = tmp_path / "cells" / "a.json"
    first = load_or_compute(path, lambda: cell)
    again = load_or_compute(path, lambda: pytest.fail("computed again"))
    assert first is cell
    assert again.row({}) == cell.row({})
    assert again.ranks.tolist() == [1, 7, 100]
    assert cell.metrics == metrics([1, 7, 100])


def test_ranks_among_a_whole_catalogue_are_kept_as_they_are(tmp_path: Path) -> None:
    cell = Cell("a", 1, np.array([1, 70_000]), 1.5, 3, Measured(validation={}))
    load_or_compute(tmp_path / "a.json", lambda: cell)
    assert load_or_compute(tmp_path / "a.json", lambda: pytest.fail("computed again")).ranks.tolist() == [1, 70_000]


def test_a_cell_that_failed_is_not_kept(tmp_path: Path) -> None:
    def broken() -> Cell:
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        load_or_compute(tmp_path / "a.json", broken)
    assert not list(tmp_path.iterdir())


# significance -------------------------------------------------------------------------------------------------------


def test_a_users_value_is_the_mean_over_clicks_and_seeds() -> None:
    ranks = np.array([[1, 3, 1], [1, 1, 3]])
    found = by_user(ranks, np.array([4, 4, 9]))["mrr"]
    np.testing.assert_allclose(found, [(1 + 1 / 3 + 1 + 1) / 4, (1 + 1 / 3) / 2])


def test_a_real_difference_is_told_from_none() -> None:
    generator = np.random.default_rng(1)
    users = np.repeat(np.arange(300), 5)
    same, better = generator.integers(1, 101, (2, 1500)), generator.integers(1, 81, (1, 1500))
    a, b, c = (by_user(ranks[None].reshape(1, -1), users) for ranks in (same[0], same[1], better[0]))
    for test in compare(("better", c), ("a", a), seed=1):
        if test.metric in ("hr@10", "mrr"):
            assert test.p < 0.05
            assert 0 < test.low < test.difference < test.high
    assert all(test.low < 0 < test.high for test in compare(("a", a), ("b", b), seed=1) if test.metric != "hr@1")
    assert all(test.difference == test.low == test.high == 0 for test in compare(("a", a), ("a", a), seed=1))


ROWS = {arm.row.name: arm.row for e in EXPERIMENTS for arm in e.arms(Asked(parse("log:x"), e.protocol))}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_row_says_whose_recipes_its_fit_reads(tmp_path: Path, row: Row) -> None:
    read = set()

    class Read(Recipes):
        def __getattribute__(self, name: str) -> Any:
            if name in RECIPES.settings():
                read.add(name)
            return super().__getattribute__(name)

    quick = RECIPES.capped(1)
    row.fit(bench(tmp_path, users=6), Read(**{net: quick.of(net) for net in RECIPES.settings()}), 1)
    assert read == set(row.nets)


def test_a_cell_is_another_one_with_other_recipes_of_its_own_nets_only(tmp_path: Path) -> None:
    one = bench(tmp_path)
    for recipes in (RECIPES, RECIPES.varied(["s2f"], l2=0.1), RECIPES.varied(["fm"], l2=0.1)):
        runner.cell_of(Arm("FM", FM_ROW, SMALL, recipes), 1, one, tmp_path / "cells")
    assert len(list((tmp_path / "cells").iterdir())) == 2


# whole experiments --------------------------------------------------------------------------------------------------


def ran(folder: Path, experiment: Experiment, seeds: int = 1, recipes: Recipes = RECIPES) -> list[Result]:
    asked = Asked(written(folder / "log.csv"), SMALL, recipes, None, seeds)
    benches = runner.Benches(asked, folder / "work")
    return list(runner.run(experiment, asked, benches, folder / "cells", folder / "out"))


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_an_experiment_gives_rows_tests_and_a_page(tmp_path: Path, experiment: Experiment) -> None:
    results = ran(tmp_path, experiment)
    path = tmp_path / "out" / f"{experiment.name}_log-log.json"
    document = json.loads(path.read_text())
    assert document == msgspec.to_builtins(results[-1])
    models = [arm.model for arm in experiment.arms(Asked(parse("log:x"), SMALL, RECIPES))]
    assert [row["model"] for row in document["rows"]] == models
    assert len(set(models)) == len(models)
    for row in document["rows"]:
        assert tuple(row["metrics"]) == METRICS
        assert 0 <= row["metrics"]["hr@1"] <= row["metrics"]["mrr"] <= 1
        assert row["epochs"] >= 1 or row["model"] == "popularity"
    assert {(test["a"], test["b"]) for test in document["tests"]} == {
        pair for pair in experiment.pairs if set(pair) <= set(models)
    }
    assert document["protocol"]["positives"] == "logged"
    assert "--data log:FILE" in document["settings"]["command"]
    text = page.write(tmp_path / "out").read_text()
    for model in models:
        assert f"| {model} |" in text
    svg = (tmp_path / "out" / f"{experiment.name}_log-log.svg").read_text()
    assert "<svg" in svg


def test_the_paper_s_rows_are_there() -> None:
    rows = {
        e.name: {arm.model for arm in e.arms(Asked(parse("log:x"), Protocol()))} for e in (TABLE2, TABLE3, ABLATION)
    }
    assert {"FM", "NeuMF", "GRU4Rec", "DIN", "DIN+FM", "DIN+NeuMF", "DIN+GRU4Rec", "MC2-SF", "fast alone"} <= rows[
        "table2"
    ]
    assert {"SASRec", "Caser", "MC2-SF"} <= rows["table3"]
    assert {"DIN", "DIN w/ F2S", "MC2-SF"} <= rows["ablation"]


def test_a_run_that_was_cut_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    class CutError(RuntimeError):
        pass

    experiment = Experiment("table2", "small", plain(FM_ROW, GRU4REC_ROW), (("FM", "GRU4Rec"),))
    asked = Asked(written(tmp_path / "log.csv"), SMALL, RECIPES, None, 2)
    epochs = []

    def cut(*told: object) -> None:
        epochs.append(told)
        if len(epochs) == 5:
            raise CutError

    with pytest.raises(CutError):
        list(runner.run(experiment, asked, runner.Benches(asked, tmp_path / "a", cut), tmp_path / "c", tmp_path / "o"))
    again = list(runner.run(experiment, asked, runner.Benches(asked, tmp_path / "a"), tmp_path / "c", tmp_path / "o"))
    whole = list(runner.run(experiment, asked, runner.Benches(asked, tmp_path / "b"), tmp_path / "d", tmp_path / "p"))
    for a, b in zip(again[-1].rows, whole[-1].rows, strict=True):
        assert a.metrics == b.metrics
    assert again[-1].tests == whole[-1].tests


def test_seeds_give_other_nets_and_the_same_candidates(tmp_path: Path) -> None:
    experiment = Experiment("table2", "small", plain(FM_ROW))
    rows = ran(tmp_path, experiment, seeds=2)[-1].rows
    assert [row.seed for row in rows] == [1, 2]
    assert rows[0].metrics != rows[1].metrics


def test_no_result_takes_the_place_of_another() -> None:
    usual = Protocol()
    log, other = parse("log:/somewhere/clicks.csv.gz"), parse("log:/somewhere/others.csv.gz")
    asked = [
        Asked(parse("ml-1m:/somewhere"), usual),
        Asked(parse("ml-1m:/somewhere"), usual, users=60),
        Asked(parse("ml-1m:/somewhere"), replace(usual, candidates="full")),
        Asked(parse("ml-1m:/somewhere"), replace(usual, min_count="both"), epochs=5),
        Asked(log, usual),
        Asked(other, usual),
        Asked(parse("synthetic:users=60,noise=0.5"), usual),
        Asked(parse("synthetic"), usual),
    ]
    assert [one.name for one in asked] == [
        "ml-1m",
        "ml-1m-60",
        "ml-1m-candidates-full",
        "ml-1m-min-count-both-epochs-5",
        "log-clicks",
        "log-others",
        "synthetic-users-60-noise-0.5",
        "synthetic",
    ]


def test_the_command_of_a_result_gives_it_again() -> None:
    asked = Asked(parse("synthetic:users=60"), replace(Protocol(), candidates="full"), users=9, seeds=2)
    again = "mc2sf experiment table2 --data synthetic:users=60 --candidates full --users 9 --seeds 2"
    assert runner.command_of("table2", asked) == again
    assert "--data steam:FILE" in runner.command_of("table2", Asked(parse("steam:/somewhere/x.json.gz"), Protocol()))
    assert "--positives" not in runner.command_of(
        "reference", Asked(parse("ml-1m:x"), LEAVE_ONE_OUT, usual=LEAVE_ONE_OUT)
    )


def test_after_each_cell_the_result_so_far_is_written(tmp_path: Path) -> None:
    experiment = Experiment("table2", "small", plain(FM_ROW))
    results = ran(tmp_path, experiment, seeds=2)
    assert [len(result.rows) for result in results] == [1, 2]
    assert results[0].settings.seeds == [1]


def test_what_is_learnt_ranks_far_above_chance(tmp_path: Path) -> None:
    one: Bench = bench(tmp_path, users=60)
    recipes = replace(RECIPES, gru4rec=replace(QUICK, epochs=15, block=1, batch=8))
    found = metrics(one.ranks(GRU4REC_ROW.fit(one, recipes, 1)))
    assert found["ndcg@10"] > 0.6  # chance is 0.22
