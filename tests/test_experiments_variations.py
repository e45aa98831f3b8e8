from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from deploy.experiments.data.candidate_lists import Score
from deploy.experiments.data.known_history import CARRIED
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.definitions import case_study, variations
from deploy.experiments.definitions.catalogue import EXPERIMENTS, HEADS
from deploy.experiments.definitions.experiment import Request
from deploy.experiments.results import page
from deploy.experiments.results.result import Tuning, UploadCosts
from deploy.experiments.runner import tuning
from deploy.experiments.runner.runner import Trainers
from deploy.experiments.training.hyperparameters import Hyperparameters, HyperparameterSet
from deploy.experiments.training.models import F2S_SERVED_MODEL, FM_MODEL, fitted_fast, nets
from deploy.experiments.training.trainer import Trainer
from models.data.catalogue import ROW_PADDING
from models.data.event_kinds import CLICK
from models.data.interaction_log import Ints
from models.training import losses
from replay.sources.source import parse
from tests.support.experiments import QUICK, QUICK_SET, SMALL, dataset, trainer, write_log


def request(text: str = "ml-1m:x") -> Request:
    return Request(parse(text), Protocol())


# what is varied -----------------------------------------------------------------------------------------------------


def test_sensitivity_varies_one_thing_at_a_time_over_the_paper_s_values() -> None:
    usual = HyperparameterSet()
    arms = {arm.name: arm.hyperparameters for arm in variations.sensitivity(request())}
    assert {name for name in arms if name.startswith("d ")} == {f"d {dim}" for dim in (4, 8, 16, 32, 64)}
    for name, hyperparameters in arms.items():
        key, value = ("dim", int(name[2:])) if name.startswith("d ") else ("l2", float(name[7:]))
        for net in ("f2s", "fast", "s2f"):
            assert hyperparameters.of(net) == replace(usual.of(net), **{key: value})
        assert hyperparameters.din == usual.din


def test_losses_are_tried_with_all_else_alike_and_the_paper_s_training_beside_them() -> None:
    arms = {arm.name: arm.hyperparameters for arm in variations.losses(request())}
    usual = HyperparameterSet()
    assert arms["SASRec, gbce"] == usual.varied(["sasrec"], loss=losses.gbce)
    assert arms["DIN, bce"].din.settings() == usual.din.settings() | {"loss": "bce"}
    published = arms["MC2-SF, as published"].f2s
    assert (published.loss, published.learning_rate, published.l2, published.batch) == (losses.bce, 5e-4, 1e-4, 256)
    assert not published.ahead


def test_what_is_bound_to_a_loss_stands_beside_its_name() -> None:
    assert Hyperparameters(loss=partial(losses.gbce, calibration=0.9)).settings()["loss"] == "gbce(calibration=0.9)"


def test_each_policy_that_gives_exposures_is_tried_with_its_canary() -> None:
    policies = {(arm.protocol.exposures, arm.protocol.positives) for arm in variations.exposures(request())}
    assert policies == {("rated", "rated"), ("simulated", "all")}
    assert {arm.protocol.exposures for arm in variations.exposures(request("log:x"))} == {"logged"}
    for source in ("ml-1m:x", "log:x", "steam:x"):
        arms = {arm.name: arm for arm in variations.exposures(request(source))}
        canaries = [pair for pair in variations.canaries() if set(pair) <= set(arms)]
        assert canaries
        assert all(arms[other].shuffled_users and not arms[own].shuffled_users for own, other in canaries)
        assert {arm.name for arm in arms.values() if arm.shuffled_users} == {other for _, other in canaries}


def test_rows_with_a_product_are_nets_with_one_and_change_no_other_fit(tmp_path: Path) -> None:
    arms, small = {arm.name: arm for arm in HEADS.arms(request())}, trainer(tmp_path)
    for name, arm in arms.items():
        for net in ("din", "f2s", "fast", "s2f"):
            built = nets(small, arm.hyperparameters.of(net), 1).config
            on_device = name == variations.DEVICE_PRODUCT and net in ("fast", "s2f")
            assert {built.slow_product, built.fast_product} == {name.endswith(", product") or on_device}
        assert arm.hyperparameters.gru4rec == HyperparameterSet().gru4rec
    assert "product" not in HyperparameterSet().din.settings()  # a kept fit of the paper's head keeps its name
    assert HyperparameterSet().with_product().din.settings()["product"]


def test_symlog_of_priors_is_another_fit_of_mc2sf_and_of_nothing_else(tmp_path: Path) -> None:
    arms, small = {arm.name: arm for arm in variations.priors(request())}, trainer(tmp_path)
    fits = set()
    for name, arm in arms.items():
        net, identity = fitted_fast(small, arm.hyperparameters.capped(1), 1)
        assert net.nets.config.symlog_priors == (name == variations.SYMLOG)
        fits.add(identity)
        assert replace(arm.hyperparameters, s2f=HyperparameterSet().s2f) == HyperparameterSet()
    assert len(fits) == 1  # the fast part alone is fitted once for all
    assert "symlog_priors" not in HyperparameterSet().s2f.settings()


def test_names_are_unique_in_every_experiment() -> None:
    for experiment in EXPERIMENTS:
        names = [arm.name for arm in experiment.arms(request())]
        assert len(names) == len(set(names)), experiment.name


# windows ------------------------------------------------------------------------------------------------------------


def costs(folder: Path, threshold: int, *, carried: bool = False) -> tuple[UploadCosts, Trainer]:
    protocol = replace(SMALL, threshold=threshold, carried=carried)
    one = trainer(folder, protocol)
    return variations.frontier(one), one


def test_a_larger_threshold_sends_less_and_is_staler(tmp_path: Path) -> None:
    for n in (2, 10):
        (tmp_path / str(n)).mkdir()
    small, large = (costs(tmp_path / str(n), n)[0] for n in (2, 10))
    assert small.uploads_per_user > 4 * large.uploads_per_user
    assert small.bytes_up_per_user > 4 * large.bytes_up_per_user
    assert small.stale_exposures < large.stale_exposures
    assert small.bytes_down_per_request == large.bytes_down_per_request


def test_costs_are_what_counting_gives(tmp_path: Path) -> None:
    """30 exposures a user, one before each click: at the last five clicks 25 to 29 were shown."""
    found, one = costs(tmp_path, 4)
    assert found.uploads_per_user == 29 // 4
    assert found.stale_exposures == np.mean([n % 4 for n in range(26, 31)])
    assert found.share_with_r2 == 1.0
    always = variations.always(one)
    assert always.stale_exposures == 0
    assert always.uploads_per_user == 30


def test_a_carried_window_reaches_back_over_closed_ones(tmp_path: Path) -> None:
    windows = {}
    for carried in (False, True):
        protocol = replace(SMALL, threshold=4, carried=carried)
        data = dataset(tmp_path, protocol)
        one = Trainer(data, protocol, tmp_path / "fits")
        place = one.dataset.clicks(Phase.TEST)[4:5]
        window = one.known_history(fresh=False).queries(place).window[0]
        windows[carried] = window[window != ROW_PADDING].tolist()
        shown = data.log.keys[(data.log.users == 0) & (data.log.kinds != CLICK)].tolist()
    assert windows[False] == shown[24:28]
    assert windows[True] == shown[:28]
    assert len(windows[True]) <= CARRIED


def test_served_rows_are_fitted_and_judged_with_the_served_r2(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    net = F2S_SERVED_MODEL.fit(one, QUICK_SET, 1)
    assert not F2S_SERVED_MODEL.fresh
    assert len(one.ranks(net, fresh=False)) == len(one.test_users)


# the case -----------------------------------------------------------------------------------------------------------


def test_the_case_names_items_that_the_user_never_had_and_the_last_clicks(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    lines = case_study.render(Request(write_log(tmp_path / "log.csv"), SMALL, QUICK_SET), lambda _: one)
    click = case_study.chosen_click(one)
    log, data = one.dataset.log, one.dataset
    user = log.users[click]
    clicks = np.flatnonzero((log.users == user) & (log.kinds == CLICK))
    last = [data.items[row - 2] for row in log.keys[clicks[clicks < click][-5:]]]
    table = [line.split(" | ") for line in lines if line.startswith("| ") and line[2].isdigit()]
    assert [row[1] for row in table] == last
    had = {data.items[row - 2] for row in log.keys[(log.users == user) & data.interacted]} - {
        data.items[log.keys[click] - 2]
    }
    tops = {cell.strip(" |") for row in table for cell in row[2:]}
    assert len(tops) >= 5
    assert not tops & had


def test_genres_are_read_beside_the_ratings(tmp_path: Path) -> None:
    (tmp_path / "movies.dat").write_text("7::Heat (1995)::Action|Crime\n", encoding="latin-1")
    assert case_study.genres_of(request(f"ml-1m:{tmp_path}")) == {"7": "Action/Crime"}
    assert case_study.genres_of(request(f"log:{tmp_path}")) == {}


# tuning -------------------------------------------------------------------------------------------------------------


def test_each_net_has_the_same_budget_of_trials() -> None:
    assert {len(tuned.trials) for tuned in tuning.TUNED} == {8}
    assert all(len({tuple(trial.items()) for trial in tuned.trials}) == 8 for tuned in tuning.TUNED)


class Watched(Trainer):
    """A trainer that remembers which phases were ranked."""

    looked: set[Phase]

    def ranks(
        self, score: Score, phase: Phase = Phase.TEST, *, fresh: bool = True, shuffled_users: bool = False
    ) -> Ints:
        self.looked.add(phase)
        return super().ranks(score, phase, fresh=fresh, shuffled_users=shuffled_users)


class WatchedTrainers(Trainers):
    """One such trainer."""

    def of(self, protocol: Protocol) -> Watched:
        watched = Watched(super().of(protocol).dataset, protocol, self._work / "fits")
        watched.looked = self.looked = set()
        return watched


def test_tuning_looks_at_validation_only_and_lists_what_it_tried(tmp_path: Path) -> None:
    of = Request(write_log(tmp_path / "log.csv"), SMALL, QUICK_SET)
    some = (tuning.TunedNet("fm", FM_MODEL, "FM", ({"learning_rate": 1e-5}, {"learning_rate": 0.05})),)
    (tmp_path / "out").mkdir()
    trainers = WatchedTrainers(of, tmp_path / "work")
    for document in tuning.tune(of, trainers, tmp_path / "out", some):
        last = document
    assert trainers.looked == {Phase.VALIDATION}
    assert [trial.tried["learning_rate"] for trial in last.trials] == [1e-5, 0.05]
    assert all(trial.epochs == QUICK.epochs for trial in last.trials)
    assert msgspec.json.decode((tmp_path / "out" / "tuning_log-log.json").read_bytes(), type=Tuning) == last
    scores = [trial.validation for trial in last.trials]
    assert tuning.best(last)["fm"] == last.trials[int(np.argmax(scores))].tried
    assert "learning_rate 0.05" in page.write(tmp_path / "out").read_text()


# what was chosen ----------------------------------------------------------------------------------------------------


def test_recipes_are_the_best_of_what_was_tried_on_validation_clicks() -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "paper" / "tuning_ml-100k.json"
    tried = msgspec.json.decode(path.read_bytes(), type=Tuning)
    plain, product = HyperparameterSet(), HyperparameterSet().with_product()
    best = tuning.best(tried)
    assert len(best) > 15
    for net, values in best.items():
        params = product.of(net.removesuffix(", product")) if net.endswith(", product") else plain.of(net)
        assert {name: getattr(params, name) for name in values} == values, net
