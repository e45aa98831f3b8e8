"""Models made of several nets: two-stage (a fast net with DIN's score as input), FedAvg and DCCL of GRU4Rec.

A two-stage model starts from a fast net that was fitted alone; DIN's score becomes an input and it is fitted again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deploy.experiments.data.protocol import Phase
from deploy.experiments.training.hyperparameters import Hyperparameters, HyperparameterSet
from deploy.experiments.training.models import (
    BOTH,
    FAST,
    Model,
    fitted_din,
    fitted_fm,
    fitted_gru4rec,
    fitted_neumf,
    new_gru4rec,
)
from deploy.experiments.training.trainer import Trainer
from models.baselines.dccl import Dccl
from models.baselines.fm import FM, FMConfig
from models.baselines.gru4rec import GRU4Rec
from models.baselines.neumf import NeuMF, NeuMFConfig
from models.baselines.two_stage import HINTS, InformedSequential, TwoStage
from models.data.queries import Queries
from models.evaluation.metrics import metrics

DEVICES = 16  # per round of federated averaging
HINT_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)  # weights of DIN's logit that are tried


def din_fm(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> TwoStage:
    """DIN+FM."""
    alone, after = fitted_fm(trainer, hyperparameters, seed)
    torch.manual_seed(seed)
    informed = FM(FMConfig(hyperparameters.fm.dim, HINTS), trainer.rows, trainer.users)
    widen(alone, informed)
    return _two_stage("DIN+FM", informed, after, hyperparameters.din_fm, trainer, hyperparameters, seed)


def din_neumf(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> TwoStage:
    """DIN+NeuMF."""
    alone, after = fitted_neumf(trainer, hyperparameters, seed)
    torch.manual_seed(seed)
    informed = NeuMF(NeuMFConfig(hyperparameters.neumf.dim, hints=HINTS), trainer.rows, trainer.users)
    widen(alone, informed)
    return _two_stage("DIN+NeuMF", informed, after, hyperparameters.din_neumf, trainer, hyperparameters, seed)


def din_gru4rec(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> TwoStage:
    """DIN+GRU4Rec."""
    alone, after = fitted_gru4rec(trainer, hyperparameters, seed)
    informed, params = InformedSequential(alone), hyperparameters.din_gru4rec
    return _two_stage("DIN+GRU4Rec", informed, after, params, trainer, hyperparameters, seed)


def gru4rec_tuned(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> TwoStage:
    """The control of DIN+GRU4Rec: GRU4Rec gets the same second fit without a score of DIN."""
    alone, after = fitted_gru4rec(trainer, hyperparameters, seed)
    net = TwoStage(Silent(), InformedSequential(alone))
    trainer.fit("GRU4Rec tuned", net, hyperparameters.din_gru4rec, seed, FAST, after=after)
    return net


class Silent(nn.Module):
    """A slow net with the same score for every item."""

    def forward(self, _queries: Queries, items: Tensor) -> Tensor:
        """Return zeros [V, C] for `items` [V, C]."""
        return torch.zeros(items.shape)


def widen(alone: nn.Module, informed: nn.Module) -> None:
    """Copy the weights of `alone` to `informed`; the weights of its last columns, the hints, start at zero."""
    wider = informed.state_dict()
    for name, weight in alone.state_dict().items():
        if weight.shape == wider[name].shape:
            wider[name].copy_(weight)
        elif weight.numel():
            wider[name].zero_()[:, : weight.shape[1]] = weight


def _two_stage(
    name: str,
    informed: FM | NeuMF | InformedSequential,
    after: str,
    params: Hyperparameters,
    trainer: Trainer,
    hyperparameters: HyperparameterSet,
    seed: int,
) -> TwoStage:
    """Return the two-stage net of DIN and a fast net, whose fit without DIN is `after`, after its second fit.

    The initial weight of DIN's logit is the one that ranks the validation clicks best: a fit on the fast phase hardly
    changes a single number.
    """
    slow, after_slow = fitted_din(trainer, hyperparameters, seed)
    net = TwoStage(slow, informed.eval())

    def set_weight(weight: float) -> None:
        with torch.no_grad():
            informed.hint_weights.copy_(torch.tensor([weight, 0.0]))

    def ndcg(weight: float) -> float:
        set_weight(weight)
        return metrics(trainer.ranks(net, Phase.VALIDATION))["ndcg@10"]

    best = max(HINT_WEIGHTS, key=ndcg)
    set_weight(best)
    trainer.fit(name, net, params, seed, FAST, after=f"{after}{after_slow} from {best}")
    return net


def fedavg(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> GRU4Rec:
    """Slow-centralised (Fig. 1c): GRU4Rec by federated averaging; clicks stay on their device."""
    net = new_gru4rec(trainer, hyperparameters, seed)
    trainer.fit("FedAvg", net, hyperparameters.federated, seed, BOTH, devices=DEVICES)
    return net


def dccl(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> Dccl:
    """Fast-centralised (Fig. 1d): GRU4Rec fitted in the cloud, then a patch for each device on its own clicks."""
    backbone, after = fitted_gru4rec(trainer, hyperparameters, seed)
    net = Dccl(backbone, trainer.users)
    trainer.fit("DCCL", net, hyperparameters.patch, seed, BOTH, after=after)
    return net


DIN_FM_MODEL = Model("DIN+FM", din_fm, ("fm", "din", "din_fm"))
DIN_NEUMF_MODEL = Model("DIN+NeuMF", din_neumf, ("neumf", "din", "din_neumf"))
DIN_GRU4REC_MODEL = Model("DIN+GRU4Rec", din_gru4rec, ("gru4rec", "din", "din_gru4rec"))
GRU4REC_TUNED_MODEL = Model("GRU4Rec, fine-tuned", gru4rec_tuned, ("gru4rec", "din_gru4rec"))
FEDAVG_MODEL = Model("FedAvg", fedavg, ("gru4rec", "federated"))
DCCL_MODEL = Model("DCCL", dccl, ("gru4rec", "patch"))
