"""Rows of vanilla slow + fast: a fast net as fitted alone is told the score of a fitted DIN, and fitted on."""

from __future__ import annotations

import torch
from torch import nn

from deploy.experiments.bench import Bench
from deploy.experiments.recipe import Recipe, Recipes
from deploy.experiments.rows import FAST, Row, fitted_din, fm, gru4rec, neumf
from models.fm import FM, FMConfig
from models.neumf import NeuMF, NeuMFConfig
from models.vanilla import HINTS, HintedSequential, Vanilla


def din_fm(bench: Bench, recipes: Recipes, seed: int) -> Vanilla:
    """DIN+FM."""
    alone = fm(bench, recipes, seed)
    torch.manual_seed(seed)
    told = FM(FMConfig(recipes.fm.dim, HINTS), bench.rows, bench.users)
    widen(alone, told)
    return _fitted("DIN+FM", told, recipes.fm, bench, recipes, seed)


def din_neumf(bench: Bench, recipes: Recipes, seed: int) -> Vanilla:
    """DIN+NeuMF."""
    alone = neumf(bench, recipes, seed)
    torch.manual_seed(seed)
    told = NeuMF(NeuMFConfig(recipes.neumf.dim, hints=HINTS), bench.rows, bench.users)
    widen(alone, told)
    return _fitted("DIN+NeuMF", told, recipes.neumf, bench, recipes, seed)


def din_gru4rec(bench: Bench, recipes: Recipes, seed: int) -> Vanilla:
    """DIN+GRU4Rec."""
    told = HintedSequential(gru4rec(bench, recipes, seed))
    return _fitted("DIN+GRU4Rec", told, recipes.gru4rec, bench, recipes, seed)


def widen(alone: nn.Module, told: nn.Module) -> None:
    """Give `told` the weights of `alone`; the columns of its hints, which come last, count nothing at first."""
    wider = told.state_dict()
    for name, weight in alone.state_dict().items():
        if weight.shape == wider[name].shape:
            wider[name].copy_(weight)
        elif weight.numel():
            wider[name].zero_()[:, : weight.shape[1]] = weight


def _fitted(name: str, told: nn.Module, of_told: Recipe, bench: Bench, recipes: Recipes, seed: int) -> Vanilla:
    slow, after = fitted_din(bench, recipes, seed)
    net = Vanilla(slow, told)
    bench.fit(name, net, recipes.hinted, seed, FAST, after=after + str(of_told.settings()))
    return net


DIN_FM_ROW = Row("DIN+FM", din_fm)
DIN_NEUMF_ROW = Row("DIN+NeuMF", din_neumf)
DIN_GRU4REC_ROW = Row("DIN+GRU4Rec", din_gru4rec)
