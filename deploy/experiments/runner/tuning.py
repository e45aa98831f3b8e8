"""Tuning: eight settings for each net, compared on validation clicks; test clicks are never ranked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from deploy.experiments.definitions.experiment import Request, with_product
from deploy.experiments.results.result import Trial, Tuning, TuningSettings
from deploy.experiments.runner.runner import Trainers, command_of
from deploy.experiments.training.composite_models import (
    DCCL_MODEL,
    DIN_FM_MODEL,
    DIN_GRU4REC_MODEL,
    DIN_NEUMF_MODEL,
    FEDAVG_MODEL,
)
from deploy.experiments.training.hyperparameters import WITH_PRODUCT, Changes
from deploy.experiments.training.models import (
    CASER_MODEL,
    DIN_MODEL,
    F2S_MODEL,
    FAST_MODEL,
    FM_MODEL,
    GRU4REC_MODEL,
    HSTU_MODEL,
    ITEM2VEC_MODEL,
    MC2SF_MODEL,
    MINGRU_MODEL,
    NEUMF_MODEL,
    SASREC_MODEL,
    Model,
)
from deploy.experiments.training.trainer import Trainer
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
class TunedNet:
    """A net that is tuned: its field of HyperparameterSet, the model that fits it, and the name of that fit."""

    net: str
    model: Model
    fit: str
    trials: tuple[Changes, ...]
    product: bool = False  # an inner product is added to the heads


# nets that start from other fits come last: they use the default hyperparameters there
_PLAIN = (
    TunedNet("item2vec", ITEM2VEC_MODEL, "item2vec", tuple(TRIALS)),
    TunedNet("gru4rec", GRU4REC_MODEL, "GRU4Rec", tuple(SEQUENTIAL)),
    TunedNet("sasrec", SASREC_MODEL, "SASRec", tuple(SEQUENTIAL)),
    TunedNet("caser", CASER_MODEL, "Caser", tuple(SEQUENTIAL)),
    TunedNet("hstu", HSTU_MODEL, "HSTU", tuple(SEQUENTIAL)),
    TunedNet("mingru", MINGRU_MODEL, "minGRU", tuple(SEQUENTIAL)),
    TunedNet("fm", FM_MODEL, "FM", tuple(TRIALS)),
    TunedNet("neumf", NEUMF_MODEL, "NeuMF", tuple(TRIALS)),
    TunedNet("din", DIN_MODEL, "DIN", tuple(TRIALS)),
    TunedNet("f2s", F2S_MODEL, "DIN w F2S", tuple(TRIALS)),
    TunedNet("fast", FAST_MODEL, "fast alone", tuple(TRIALS)),
    TunedNet("din_fm", DIN_FM_MODEL, "DIN+FM", tuple(TRIALS)),
    TunedNet("din_neumf", DIN_NEUMF_MODEL, "DIN+NeuMF", tuple(TRIALS)),
    TunedNet("din_gru4rec", DIN_GRU4REC_MODEL, "DIN+GRU4Rec", tuple(TRIALS)),
    TunedNet("federated", FEDAVG_MODEL, "FedAvg", tuple(TRIALS)),
    TunedNet("patch", DCCL_MODEL, "DCCL", tuple(TRIALS)),
    TunedNet("s2f", MC2SF_MODEL, "MC2-SF", tuple(TRIALS)),
)
TUNED = (*_PLAIN, *(replace(tuned, product=True) for tuned in _PLAIN if tuned.net in WITH_PRODUCT))


def tune(request: Request, trainers: Trainers, out: Path, nets: tuple[TunedNet, ...] = TUNED) -> Iterator[Tuning]:
    """Try all settings; after each trial write the trials so far to `out` and yield them. Fits are stored."""
    trainer = trainers.of(request.protocol)
    trials: list[Trial] = []
    for tuned in nets:
        for values in tuned.trials:
            trials.append(_trial(trainer, request, tuned, values))
            settings = TuningSettings(command_of("tune", request), request.users, "validation NDCG@10")
            result = Tuning("tune", request.name, trainer.protocol_record, settings, trials)
            write_json(out / f"tuning_{request.name}.json", result)
            yield result


def best(tuning: Tuning) -> dict[str, dict[str, float]]:
    """Return for each net the values of the trial with the best validation score; the earliest of equals."""
    nets = dict.fromkeys(trial.net for trial in tuning.trials)
    by_score = {net: [trial for trial in tuning.trials if trial.net == net] for net in nets}
    return {net: max(trials, key=lambda trial: trial.validation).tried for net, trials in by_score.items()}


def _trial(trainer: Trainer, request: Request, tuned: TunedNet, values: Changes) -> Trial:
    trainer.cost.clear()
    usual = request.hyperparameters.with_product() if tuned.product else request.hyperparameters
    tuned.model.fit(trainer, usual.varied((tuned.net,), **values), 1)
    curve = trainer.cost.curves[tuned.fit]
    net = with_product(tuned.net) if tuned.product else tuned.net
    tried = {name: value for name, value in values.items() if isinstance(value, float)}
    return Trial(net, tried, max(curve), len(curve))
