"""Rows of the other collaboration forms of Fig. 1: weights that are averaged, and a backbone that is patched."""

from __future__ import annotations

from deploy.experiments.training.hyperparameters import Recipes
from deploy.experiments.training.models import BOTH, Row, fitted_gru4rec, new_gru4rec
from deploy.experiments.training.trainer import Bench
from models.baselines.dccl import Dccl
from models.baselines.gru4rec import GRU4Rec


def federated(bench: Bench, recipes: Recipes, seed: int) -> GRU4Rec:
    """Slow-centralised (Fig. 1c): GRU4Rec by federated averaging; a device's clicks stay on it."""
    net = new_gru4rec(bench, recipes, seed)
    bench.fit("FedAvg", net, recipes.federated, seed, BOTH, devices=DEVICES)
    return net


def patched(bench: Bench, recipes: Recipes, seed: int) -> Dccl:
    """Fast-centralised (Fig. 1d): GRU4Rec fitted in the cloud, then a patch for each device on its own clicks."""
    backbone, after = fitted_gru4rec(bench, recipes, seed)
    net = Dccl(backbone, bench.users)
    bench.fit("DCCL", net, recipes.patch, seed, BOTH, after=after)
    return net


DEVICES = 16  # a round
FEDERATED_ROW = Row("FedAvg", federated, ("gru4rec", "federated"))
PATCHED_ROW = Row("DCCL", patched, ("gru4rec", "patch"))
