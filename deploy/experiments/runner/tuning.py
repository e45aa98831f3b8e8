"""Tuning: eight recipes for each net on a sample of users, judged on validation clicks; the test is never ranked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from deploy.experiments.definitions.experiment import Asked, with_product
from deploy.experiments.results.result import Trial, Tuning, TuningSettings
from deploy.experiments.runner.runner import Benches, command_of
from deploy.experiments.training.collaboration_rows import FEDERATED_ROW, PATCHED_ROW
from deploy.experiments.training.composite_models import DIN_FM_ROW, DIN_GRU4REC_ROW, DIN_NEUMF_ROW
from deploy.experiments.training.hyperparameters import WITH_PRODUCT, Changes
from deploy.experiments.training.models import (
    CASER_ROW,
    DIN_ROW,
    F2S_ROW,
    FAST_ROW,
    FM_ROW,
    GRU4REC_ROW,
    HSTU_ROW,
    ITEM2VEC_ROW,
    MC2SF_ROW,
    MINGRU_ROW,
    NEUMF_ROW,
    SASREC_ROW,
    Row,
)
from deploy.experiments.training.trainer import Bench
from replay.json_file import write_json

TRIALS: list[Changes] = [
    {"learning_rate": rate, "l2": l2, "power": power}
    for rate, l2, power in product((1e-3, 3e-3), (0.0, 1e-4), (0.0, 0.5))
]
SEQUENTIAL: list[Changes] = [
    {"learning_rate": rate, "dropout": dropout, "power": power}
    for rate, dropout, power in product((1e-3, 3e-3), (0.2, 0.4), (0.0, 0.5))
]


@dataclass(frozen=True)
class Tuned:
    """A net whose recipe is chosen: the field of Recipes, the row that fits it, what that fit is called."""

    net: str
    row: Row
    fit: str
    trials: tuple[Changes, ...]
    product: bool = False  # beside the heads of the nets of a release


# those that stand on other fits come last: they use what is default there
_PLAIN = (
    Tuned("item2vec", ITEM2VEC_ROW, "item2vec", tuple(TRIALS)),
    Tuned("gru4rec", GRU4REC_ROW, "GRU4Rec", tuple(SEQUENTIAL)),
    Tuned("sasrec", SASREC_ROW, "SASRec", tuple(SEQUENTIAL)),
    Tuned("caser", CASER_ROW, "Caser", tuple(SEQUENTIAL)),
    Tuned("hstu", HSTU_ROW, "HSTU", tuple(SEQUENTIAL)),
    Tuned("mingru", MINGRU_ROW, "minGRU", tuple(SEQUENTIAL)),
    Tuned("fm", FM_ROW, "FM", tuple(TRIALS)),
    Tuned("neumf", NEUMF_ROW, "NeuMF", tuple(TRIALS)),
    Tuned("din", DIN_ROW, "DIN", tuple(TRIALS)),
    Tuned("f2s", F2S_ROW, "DIN w F2S", tuple(TRIALS)),
    Tuned("fast", FAST_ROW, "fast alone", tuple(TRIALS)),
    Tuned("din_fm", DIN_FM_ROW, "DIN+FM", tuple(TRIALS)),
    Tuned("din_neumf", DIN_NEUMF_ROW, "DIN+NeuMF", tuple(TRIALS)),
    Tuned("din_gru4rec", DIN_GRU4REC_ROW, "DIN+GRU4Rec", tuple(TRIALS)),
    Tuned("federated", FEDERATED_ROW, "FedAvg", tuple(TRIALS)),
    Tuned("patch", PATCHED_ROW, "DCCL", tuple(TRIALS)),
    Tuned("s2f", MC2SF_ROW, "MC2-SF", tuple(TRIALS)),
)
TUNED = (*_PLAIN, *(replace(tuned, product=True) for tuned in _PLAIN if tuned.net in WITH_PRODUCT))


def tune(asked: Asked, benches: Benches, out: Path, some: tuple[Tuned, ...] = TUNED) -> Iterator[Tuning]:
    """Try all recipes; what was tried so far is written to `out` and given after each trial. Fits are kept."""
    bench = benches.of(asked.protocol)
    tried: list[Trial] = []
    for tuned in some:
        for values in tuned.trials:
            tried.append(_trial(bench, asked, tuned, values))
            settings = TuningSettings(command_of("tune", asked), asked.users, "validation NDCG@10")
            document = Tuning("tune", asked.name, bench.record, settings, tried)
            write_json(out / f"tuning_{asked.name}.json", document)
            yield document


def best(tuning: Tuning) -> dict[str, dict[str, float]]:
    """Return for each net the values of the trial with the best validation score; the earliest of equals."""
    nets = dict.fromkeys(trial.net for trial in tuning.trials)
    by_score = {net: [trial for trial in tuning.trials if trial.net == net] for net in nets}
    return {net: max(trials, key=lambda trial: trial.validation).tried for net, trials in by_score.items()}


def _trial(bench: Bench, asked: Asked, tuned: Tuned, values: Changes) -> Trial:
    bench.spent.clear()
    usual = asked.recipes.with_product() if tuned.product else asked.recipes
    tuned.row.fit(bench, usual.varied((tuned.net,), **values), 1)
    curve = bench.spent.curves[tuned.fit]
    net = with_product(tuned.net) if tuned.product else tuned.net
    tried = {name: value for name, value in values.items() if isinstance(value, float)}
    return Trial(net, tried, max(curve), len(curve))
