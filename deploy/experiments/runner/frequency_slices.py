"""Results by how often the slow phase has the item of a test click: what a slow net can know of it."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from deploy.experiments.data.protocol import Phase
from deploy.experiments.runner.cells import Cell
from deploy.experiments.training.trainer import Bench
from models.data.interaction_log import Ints
from models.evaluation.metrics import metrics

LEAST = (0, 1, 5, 20, 100)  # clicks in the slow phase, of all users, from which on a slice begins


def slices(bench: Bench, cells: list[Cell]) -> list[dict[str, Any]]:
    """For each slice that has test clicks: its least number, its size, NDCG@10 of each model (mean over seeds)."""
    of = np.searchsorted(LEAST, seen(bench), side="right") - 1
    models = dict.fromkeys(cell.model for cell in cells)
    found = []
    for number in np.unique(of):
        some = of == number
        worth = {
            model: statistics.fmean(metrics(cell.ranks[some])["ndcg@10"] for cell in cells if cell.model == model)
            for model in models
        }
        found.append({"least": LEAST[number], "clicks": int(some.sum()), "ndcg@10": worth})
    return found


def seen(bench: Bench) -> Ints:
    """How many clicks of the slow phase, of all users, are on the item of each test click: [V]."""
    data = bench.dataset
    clicks = np.bincount(data.log.keys[data.of(Phase.SLOW)], minlength=data.rows)
    return clicks[data.log.keys[bench.lists(Phase.TEST).clicks]]
