"""Results by the number of clicks of the slow phase on the item of a test click: the data a slow net has on it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from deploy.experiments.data.protocol import Phase
from deploy.experiments.results.result import FrequencySlice
from deploy.experiments.runner.cells import Cell
from deploy.experiments.training.trainer import Trainer
from models.data.interaction_log import Ints
from models.evaluation.metrics import metrics

LOWER_BOUNDS = (0, 1, 5, 20, 100)  # clicks of all users in the slow phase: the lower bound of each slice


def slices(trainer: Trainer, cells: list[Cell], lower_bounds: Sequence[int] = LOWER_BOUNDS) -> list[FrequencySlice]:
    """Return the slices that have test clicks, with NDCG@10 of each model (mean over seeds)."""
    slice_of_click = np.searchsorted(lower_bounds, clicks_in_slow_phase(trainer), side="right") - 1
    models = dict.fromkeys(cell.model for cell in cells)
    result = []
    for number in np.unique(slice_of_click):
        inside = slice_of_click == number
        ndcg = {
            model: statistics.fmean(metrics(cell.ranks[inside])["ndcg@10"] for cell in cells if cell.model == model)
            for model in models
        }
        result.append(FrequencySlice(lower_bounds[number], int(inside.sum()), ndcg))
    return result


def clicks_in_slow_phase(trainer: Trainer) -> Ints:
    """Return the number of clicks of all users in the slow phase on the item of each test click: [V]."""
    data = trainer.dataset
    clicks = np.bincount(data.log.keys[data.clicks(Phase.SLOW)], minlength=data.rows)
    return clicks[data.log.keys[trainer.candidate_lists(Phase.TEST).clicks]]
