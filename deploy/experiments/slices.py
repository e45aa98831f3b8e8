"""Results by how often the slow phase has the item of a test click: what a slow net can know of it."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from deploy.experiments.bench import Bench
from deploy.experiments.cells import Cell
from deploy.experiments.protocol import Phase
from models.log import Ints
from models.ranking import metrics

LEAST = (0, 1, 5, 20, 100)  # clicks in the slow phase, of all users, from which on a slice begins


def slices(bench: Bench, cells: list[Cell]) -> list[dict[str, Any]]:
    """For each slice that has test clicks: its least number, its size, NDCG@10 of each model (mean over seeds)."""
    of = np.searchsorted(LEAST, seen(bench), side="right") - 1
    return [
        {
            "least": least,
            "clicks": int((of == number).sum()),
            "ndcg@10": {
                model: statistics.fmean(metrics(c.ranks[of == number])["ndcg@10"] for c in cells if c.model == model)
                for model in dict.fromkeys(cell.model for cell in cells)
            },
        }
        for number, least in enumerate(LEAST)
        if (of == number).any()
    ]


def seen(bench: Bench) -> Ints:
    """How many clicks of the slow phase, of all users, are on the item of each test click: [V]."""
    data = bench.dataset
    clicks = np.bincount(data.log.keys[data.of(Phase.SLOW)], minlength=data.rows)
    return clicks[data.log.keys[bench.lists(Phase.TEST).clicks]]
