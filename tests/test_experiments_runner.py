from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from deploy.experiments.data.protocol import LEAVE_ONE_OUT, Phase, Protocol
from deploy.experiments.definitions.catalogue import ABLATION, EXPERIMENTS, REFERENCE, TABLE2, TABLE3
from deploy.experiments.definitions.experiment import Arm, Experiment, Request, arms_of
from deploy.experiments.results import page
from deploy.experiments.results.result import Result, read_results
from deploy.experiments.runner import runner
from deploy.experiments.runner.cells import Cell, Measured, load_or_compute
from deploy.experiments.runner.significance import by_user, compare
from deploy.experiments.training.composite_models import DIN_FM_MODEL, DIN_GRU4REC_MODEL, DIN_NEUMF_MODEL, HINT_WEIGHTS
from deploy.experiments.training.hyperparameters import ITEM2VEC, HyperparameterSet
from deploy.experiments.training.models import (
    DIN_MODEL,
    FM_MODEL,
    GRU4REC_MODEL,
    MC2SF_MODEL,
    NEUMF_MODEL,
    SASREC_MODEL,
    Model,
    fitted_din,
    fitted_f2s,
)
from deploy.experiments.training.trainer import Trainer, TrainerIdentity, popularity
from models.baselines.sequential import Sequential
from models.baselines.two_stage import TwoStage
from models.data.interaction_log import Ints
from models.data.queries import Queries, delayed, recent
from models.evaluation.metrics import METRICS, metrics
from models.mc2sf.variants import DIN, MC2SF
from models.training.losses import bce, sampled_softmax
from replay.sources.source import parse
from tests.support.experiments import QUICK, QUICK_SET, SMALL, trainer, write_log

PAPER = Path(__file__).parents[1] / "benchmarks" / "paper"


# fits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fit_is_kept_and_other_hyperparameters_are_another_fit(tmp_path: Path) -> None:
    told: list[str] = []
    first = trainer(tmp_path)
    first._progress = lambda fit, *_: told.append(fit)
    ranks = first.ranks(FM_MODEL.fit(first, QUICK_SET, 1))
    assert len(told) == QUICK.epochs
    again = first.ranks(FM_MODEL.fit(first, QUICK_SET, 1))
    assert len(told) == QUICK.epochs
    assert np.array_equal(ranks, again)
    FM_MODEL.fit(first, replace(QUICK_SET, fm=replace(QUICK, learning_rate=0.02)), 1)
    assert len(told) == 2 * QUICK.epochs


def test_a_kept_fit_still_says_what_it_cost(tmp_path: Path) -> None:
    costs = []
    for _ in range(2):
        one = trainer(tmp_path)
        FM_MODEL.fit(one, QUICK_SET, 1)
        costs.append((one.cost.seconds, one.cost.epochs))
    assert costs[0] == costs[1]
    assert costs[0][0] > 0


def test_the_epoch_that_validation_clicks_like_best_is_kept(tmp_path: Path) -> None:
    ranks = iter([50, 1, 50, 50, 50])  # after each epoch

    class Foretold(Trainer):
        def ranks(self, *_: object, **__: object) -> Ints:
            return np.array([next(ranks)])

    two, five = trainer(tmp_path), trainer(tmp_path, kind=Foretold)
    best = FM_MODEL.fit(five, replace(QUICK_SET, fm=replace(QUICK, epochs=5, patience=5)), 1)
    assert five.cost.curves["FM"] == [0, 1, 0, 0, 0]
    second = FM_MODEL.fit(two, replace(QUICK_SET, fm=replace(QUICK, epochs=2)), 1)
    assert isinstance(best, torch.nn.Module)
    assert isinstance(second, torch.nn.Module)
    for name, weight in second.state_dict().items():
        assert torch.equal(weight, best.state_dict()[name])


def test_item_tables_start_as_item2vec_has_them_fitted_on_the_same_phases(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    still = replace(QUICK, learning_rate=0.0, epochs=1)
    slow, alone = (
        fitted_din(one, replace(QUICK_SET, din=replace(still, ahead=ahead)), 1)[0] for ahead in (True, False)
    )
    as_teacher = replace(ITEM2VEC, dim=QUICK.dim, epochs=1)
    teacher, _ = one.item2vec(as_teacher, 1, (Phase.SLOW,))
    assert teacher.reads is delayed
    assert torch.equal(slow.nets.encoder.E, teacher.items.weight)
    assert not torch.equal(alone.nets.encoder.E, teacher.items.weight)
    assert one.item2vec(as_teacher, 1, (Phase.SLOW, Phase.FAST))[0].reads is recent


@pytest.mark.slow
def test_a_net_without_a_bias_in_common_begins_where_its_loss_rests(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    for loss, begins in ((bce, -math.log(QUICK.negatives)), (sampled_softmax, 0.0)):
        still = replace(QUICK_SET, sasrec=replace(QUICK, learning_rate=0.0, loss=loss))
        net = SASREC_MODEL.fit(one, still, 1)
        assert isinstance(net, Sequential)
        bias = net.bias.weight.detach()
        torch.testing.assert_close(bias[1:], torch.full_like(bias[1:], begins), atol=1e-3, rtol=0)
        assert bias[0].item() == 0


def test_mc2sf_takes_the_priors_of_the_fitted_slow_part_and_does_not_change_it(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    slow, _ = fitted_f2s(one, QUICK_SET, 1)
    net = MC2SF_MODEL.fit(one, QUICK_SET, 1)
    assert isinstance(net, MC2SF)
    assert net.cloud is not None
    for name, weight in slow.state_dict().items():
        assert torch.equal(weight, net.cloud.state_dict()[name])


NOT_FITTED = QUICK_SET.varied(("din_fm", "din_neumf", "din_gru4rec"), learning_rate=0.0, epochs=1)


@pytest.mark.parametrize(
    ("alone", "model"),
    [(FM_MODEL, DIN_FM_MODEL), (NEUMF_MODEL, DIN_NEUMF_MODEL), (GRU4REC_MODEL, DIN_GRU4REC_MODEL)],
    ids=lambda model: model.name,
)
def test_a_two_stage_model_starts_with_din_s_score_at_the_weight_that_validation_chooses(
    tmp_path: Path, alone: Model, model: Model
) -> None:
    one = trainer(tmp_path)
    fast, slow = alone.fit(one, NOT_FITTED, 1), DIN_MODEL.fit(one, NOT_FITTED, 1)
    net = model.fit(one, NOT_FITTED, 1)
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
        clicks, items = (
            one.candidate_lists(Phase.TEST).clicks[:5],
            torch.from_numpy(one.candidate_lists(Phase.TEST).items[:5]),
        )
        queries = one.known_history().queries(clicks)
        torch.testing.assert_close(net(queries, items), weighted(chosen)(queries, items), atol=1e-5, rtol=1e-5)
    if model is not DIN_FM_MODEL:
        worth = {w: metrics(one.ranks(weighted(w), Phase.VALIDATION))["ndcg@10"] for w in HINT_WEIGHTS}
        assert len(set(worth.values())) > 1
        assert worth[round(chosen, 3)] == max(worth.values())


def test_exposures_of_shuffled_users_change_only_the_models_that_read_exposures(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    clicks, items = (
        one.candidate_lists(Phase.TEST).clicks[:20],
        torch.from_numpy(one.candidate_lists(Phase.TEST).items[:20]),
    )
    known = one.known_history()
    queries = known.queries(clicks)
    swapped = known.swapped(queries, clicks[::-1].copy())
    assert torch.equal(swapped.exposures, queries.exposures.flip(0))
    for model, reads in ((FM_MODEL, False), (MC2SF_MODEL, True)):
        net = model.fit(one, QUICK_SET, 1)
        with torch.no_grad():
            assert torch.equal(net(queries, items), net(swapped, items)) is not reads
        own = one.ranks(net)
        assert reads or np.array_equal(own, one.ranks(net, shuffled_users=True))


def test_a_shuffled_user_is_another_user(tmp_path: Path) -> None:
    one = trainer(tmp_path, users=5)
    of = one.candidate_lists(Phase.TEST)
    users = one.dataset.log.users
    assert (users[of.clicks[one._others(of)]] != users[of.clicks]).all()


def test_popularity_counts_training_clicks_only(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    score = popularity(one)
    items = torch.arange(one.rows)[None]
    log = one.dataset.log
    expected = np.bincount(log.keys[one.dataset.clicks(Phase.SLOW, Phase.FAST)], minlength=one.rows)
    assert (
        score(one.known_history().queries(one.dataset.clicks(Phase.TEST)[:1]), items)[0].tolist() == expected.tolist()
    )


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


DIGESTS = {"ml-1m": "f5f60b06815f7726", "ebnerd": "fd53fba8693d76eb"}  # of the datasets under the usual protocol
REFERENCE_DIGEST = "248232bcea74252b"  # of ML-1M, leave-one-out


def test_the_committed_cells_are_found_under_the_names_that_the_experiments_give_them() -> None:
    names = set()
    for result in read_results(PAPER, [experiment.name for experiment in EXPERIMENTS]):
        if result.data not in DIGESTS:
            continue
        experiment = next(each for each in EXPERIMENTS if each.name == result.experiment)
        request = Request(parse(f"{result.data}:x"), experiment.protocol, experiment.hyperparameters)
        digest = REFERENCE_DIGEST if experiment is REFERENCE else DIGESTS[result.data]
        arms = {arm.name: arm for arm in experiment.arms(request)}
        for row in result.rows:
            arm = arms[row.model]
            of = TrainerIdentity(dataset=digest, protocol=asdict(arm.protocol))
            names.add(runner.cell_name(arm, row.seed, of))
    assert names == {path.name for path in (PAPER / "cells").iterdir()}


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


MODELS = {arm.model.name: arm.model for e in EXPERIMENTS for arm in e.arms(Request(parse("log:x"), e.protocol))}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_a_model_names_the_nets_whose_hyperparameters_its_fit_reads(tmp_path: Path, model: Model) -> None:
    read = set()

    class Read(HyperparameterSet):
        def __getattribute__(self, name: str) -> Any:
            if name in QUICK_SET.settings():
                read.add(name)
            return super().__getattribute__(name)

    quick = QUICK_SET.capped(1)
    model.fit(trainer(tmp_path, users=6), Read(**{net: quick.of(net) for net in QUICK_SET.settings()}), 1)
    assert read == set(model.nets)


def test_only_hyperparameters_of_its_own_nets_make_another_cell(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    for hyperparameters in (QUICK_SET, QUICK_SET.varied(["s2f"], l2=0.1), QUICK_SET.varied(["fm"], l2=0.1)):
        runner.cell_of(Arm("FM", FM_MODEL, SMALL, hyperparameters), 1, one, tmp_path / "cells")
    assert len(list((tmp_path / "cells").iterdir())) == 2


# whole experiments --------------------------------------------------------------------------------------------------


def ran(
    folder: Path, experiment: Experiment, seeds: int = 1, hyperparameters: HyperparameterSet = QUICK_SET
) -> list[Result]:
    request = Request(write_log(folder / "log.csv"), SMALL, hyperparameters, None, seeds)
    trainers = runner.Trainers(request, folder / "work")
    return list(runner.run(experiment, request, trainers, folder / "cells", folder / "out"))


QUICK_ONES = TABLE2, TABLE3, ABLATION, REFERENCE  # and all others are slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Request, runner.Trainers]:
    """A log of few users, and fits of one epoch, which are kept: experiments have many in common."""
    folder = tmp_path_factory.mktemp("shared")
    once = HyperparameterSet(**dict.fromkeys(HyperparameterSet().settings(), replace(QUICK, epochs=1)))
    request = Request(write_log(folder / "log.csv", users=6, clicks=20), SMALL, once, None, 1)
    return request, runner.Trainers(request, folder / "work")


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(each, marks=[] if each in QUICK_ONES else pytest.mark.slow, id=each.name) for each in EXPERIMENTS],
)
def test_an_experiment_gives_rows_differences_and_a_page(
    tmp_path: Path, shared: tuple[Request, runner.Trainers], experiment: Experiment
) -> None:
    results = list(runner.run(experiment, *shared, tmp_path / "cells", tmp_path / "out"))
    path = tmp_path / "out" / f"{experiment.name}_log-log.json"
    document = json.loads(path.read_text())
    assert document == msgspec.to_builtins(results[-1])
    models = [arm.name for arm in experiment.arms(Request(parse("log:x"), SMALL, QUICK_SET))]
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


def test_the_paper_s_models_are_there() -> None:
    rows = {
        e.name: {arm.name for arm in e.arms(Request(parse("log:x"), Protocol()))} for e in (TABLE2, TABLE3, ABLATION)
    }
    assert {"FM", "NeuMF", "GRU4Rec", "DIN", "DIN+FM", "DIN+NeuMF", "DIN+GRU4Rec", "MC2-SF", "fast alone"} <= rows[
        "table2"
    ]
    assert {"SASRec", "Caser", "MC2-SF"} <= rows["table3"]
    assert {"DIN", "DIN w/ F2S", "MC2-SF"} <= rows["ablation"]


def test_a_run_that_was_cut_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    class CutError(RuntimeError):
        pass

    experiment = Experiment("table2", "small", arms_of(FM_MODEL, GRU4REC_MODEL), (("FM", "GRU4Rec"),))
    request = Request(write_log(tmp_path / "log.csv"), SMALL, QUICK_SET, None, 2)
    epochs = []

    def cut(*told: object) -> None:
        epochs.append(told)
        if len(epochs) == 5:
            raise CutError

    with pytest.raises(CutError):
        list(
            runner.run(
                experiment, request, runner.Trainers(request, tmp_path / "a", cut), tmp_path / "c", tmp_path / "o"
            )
        )
    again = list(
        runner.run(experiment, request, runner.Trainers(request, tmp_path / "a"), tmp_path / "c", tmp_path / "o")
    )
    whole = list(
        runner.run(experiment, request, runner.Trainers(request, tmp_path / "b"), tmp_path / "d", tmp_path / "p")
    )
    for a, b in zip(again[-1].rows, whole[-1].rows, strict=True):
        assert a.metrics == b.metrics
    assert again[-1].tests == whole[-1].tests


def test_seeds_give_other_nets_and_the_same_candidates(tmp_path: Path) -> None:
    experiment = Experiment("table2", "small", arms_of(FM_MODEL))
    rows = ran(tmp_path, experiment, seeds=2)[-1].rows
    assert [row.seed for row in rows] == [1, 2]
    assert rows[0].metrics != rows[1].metrics


def test_no_result_takes_the_place_of_another() -> None:
    usual = Protocol()
    log, other = parse("log:/somewhere/clicks.csv.gz"), parse("log:/somewhere/others.csv.gz")
    request = [
        Request(parse("ml-1m:/somewhere"), usual),
        Request(parse("ml-1m:/somewhere"), usual, users=60),
        Request(parse("ml-1m:/somewhere"), replace(usual, candidates="full")),
        Request(parse("ml-1m:/somewhere"), replace(usual, min_count="both"), epochs=5),
        Request(log, usual),
        Request(other, usual),
        Request(parse("synthetic:users=60,noise=0.5"), usual),
        Request(parse("synthetic"), usual),
    ]
    assert [one.name for one in request] == [
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
    request = Request(parse("synthetic:users=60"), replace(Protocol(), candidates="full"), users=9, seeds=2)
    again = "mc2sf experiment table2 --data synthetic:users=60 --candidates full --users 9 --seeds 2"
    assert runner.command_of("table2", request) == again
    assert "--data steam:FILE" in runner.command_of("table2", Request(parse("steam:/somewhere/x.json.gz"), Protocol()))
    assert "--positives" not in runner.command_of(
        "reference", Request(parse("ml-1m:x"), LEAVE_ONE_OUT, usual=LEAVE_ONE_OUT)
    )


def test_after_each_cell_the_result_so_far_is_written(tmp_path: Path) -> None:
    experiment = Experiment("table2", "small", arms_of(FM_MODEL))
    results = ran(tmp_path, experiment, seeds=2)
    assert [len(result.rows) for result in results] == [1, 2]
    assert results[0].settings.seeds == [1]


@pytest.mark.slow
def test_what_is_learnt_ranks_far_above_chance(tmp_path: Path) -> None:
    one: Trainer = trainer(tmp_path, users=60)
    hyperparameters = replace(QUICK_SET, gru4rec=replace(QUICK, epochs=15, block=1, batch=8))
    found = metrics(one.ranks(GRU4REC_MODEL.fit(one, hyperparameters, 1)))
    assert found["ndcg@10"] > 0.6  # chance is 0.22
