"""Rows of vanilla slow + fast: a fast net as fitted alone is told the score of a fitted DIN, and fitted on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deploy.experiments.data.protocol import Phase
from deploy.experiments.training.hyperparameters import Recipes
from deploy.experiments.training.models import FAST, Row, fitted_din, fitted_fm, fitted_gru4rec, fitted_neumf
from deploy.experiments.training.trainer import Bench
from models.baselines.fm import FM, FMConfig
from models.baselines.neumf import NeuMF, NeuMFConfig
from models.baselines.two_stage import HINTS, InformedSequential, TwoStage
from models.data.queries import Queries
from models.evaluation.metrics import metrics

BEGIN = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)  # weights of DIN's logit that are tried


def din_fm(bench: Bench, recipes: Recipes, seed: int) -> TwoStage:
    """DIN+FM."""
    alone, after = fitted_fm(bench, recipes, seed)
    torch.manual_seed(seed)
    told = FM(FMConfig(recipes.fm.dim, HINTS), bench.rows, bench.users)
    widen(alone, told)
    net, begun = _begun(told, bench, recipes, seed)
    bench.fit("DIN+FM", net, recipes.din_fm, seed, FAST, after=after + begun)
    return net


def din_neumf(bench: Bench, recipes: Recipes, seed: int) -> TwoStage:
    """DIN+NeuMF."""
    alone, after = fitted_neumf(bench, recipes, seed)
    torch.manual_seed(seed)
    told = NeuMF(NeuMFConfig(recipes.neumf.dim, hints=HINTS), bench.rows, bench.users)
    widen(alone, told)
    net, begun = _begun(told, bench, recipes, seed)
    bench.fit("DIN+NeuMF", net, recipes.din_neumf, seed, FAST, after=after + begun)
    return net


def din_gru4rec(bench: Bench, recipes: Recipes, seed: int) -> TwoStage:
    """DIN+GRU4Rec."""
    alone, after = fitted_gru4rec(bench, recipes, seed)
    net, begun = _begun(InformedSequential(alone), bench, recipes, seed)
    bench.fit("DIN+GRU4Rec", net, recipes.din_gru4rec, seed, FAST, after=after + begun)
    return net


def gru4rec_tuned(bench: Bench, recipes: Recipes, seed: int) -> TwoStage:
    """The control of DIN+GRU4Rec: GRU4Rec gets the same second fit, told nothing."""
    alone, after = fitted_gru4rec(bench, recipes, seed)
    net = TwoStage(Silent(), InformedSequential(alone))
    bench.fit("GRU4Rec tuned", net, recipes.din_gru4rec, seed, FAST, after=after)
    return net


class Silent(nn.Module):
    """A slow net that says the same of every item."""

    def forward(self, _queries: Queries, items: Tensor) -> Tensor:
        """Zeros [V, C] for `items` [V, C]."""
        return torch.zeros(items.shape)


def widen(alone: nn.Module, told: nn.Module) -> None:
    """Give `told` the weights of `alone`; the columns of its hints, which come last, count nothing at first."""
    wider = told.state_dict()
    for name, weight in alone.state_dict().items():
        if weight.shape == wider[name].shape:
            wider[name].copy_(weight)
        elif weight.numel():
            wider[name].zero_()[:, : weight.shape[1]] = weight


def _begun(told: FM | NeuMF | InformedSequential, bench: Bench, recipes: Recipes, seed: int) -> tuple[TwoStage, str]:
    """`told` beside a fitted DIN, before it is fitted on; and what names DIN's fit and its weight.

    DIN's logit begins with the weight that ranks the validation clicks best: in a fit on the fast phase a single number
    hardly moves.
    """
    slow, after = fitted_din(bench, recipes, seed)
    net = TwoStage(slow, told.eval())

    def begin(weight: float) -> None:
        with torch.no_grad():
            told.hint_weights.copy_(torch.tensor([weight, 0.0]))

    def worth(weight: float) -> float:
        begin(weight)
        return metrics(bench.ranks(net, Phase.VALIDATION))["ndcg@10"]

    best = max(BEGIN, key=worth)
    begin(best)
    return net, f"{after} from {best}"


DIN_FM_ROW = Row("DIN+FM", din_fm, ("fm", "din", "din_fm"))
DIN_NEUMF_ROW = Row("DIN+NeuMF", din_neumf, ("neumf", "din", "din_neumf"))
DIN_GRU4REC_ROW = Row("DIN+GRU4Rec", din_gru4rec, ("gru4rec", "din", "din_gru4rec"))
GRU4REC_TUNED_ROW = Row("GRU4Rec, fine-tuned", gru4rec_tuned, ("gru4rec", "din_gru4rec"))
