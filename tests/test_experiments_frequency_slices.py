from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from deploy.experiments.data.protocol import Phase
from deploy.experiments.runner import frequency_slices
from deploy.experiments.runner.cells import Cell, Measured
from models.data.event_kinds import CLICK
from models.evaluation.metrics import metrics
from tests.support.experiments import trainer


def test_a_test_click_is_in_the_slice_of_how_often_all_users_clicked_its_item_before(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    log, phase = one.dataset.log, one.dataset.phase
    slow = Counter(log.keys[(phase == Phase.SLOW) & (log.kinds == CLICK)].tolist())
    counts = [slow[log.keys[click]] for click in one.candidate_lists(Phase.TEST).clicks]
    ranks = {("a", seed): np.random.default_rng(seed).integers(1, 21, len(counts)) for seed in (1, 2)}
    ranks["b", 1] = np.full(len(counts), 3)
    cells = [Cell(model, seed, of, 1.0, 1, Measured(validation={})) for (model, seed), of in ranks.items()]
    found = frequency_slices.slices(one, cells, (0, 9, 10, 1000))
    expected = {low: [low <= n < high for n in counts] for low, high in ((0, 9), (9, 10), (10, 1000))}
    assert all(map(any, expected.values()))  # each has its clicks here
    assert {piece.least: piece.clicks for piece in found} == {low: sum(of) for low, of in expected.items()}
    for piece in found:
        of = np.array(expected[piece.least])
        means = [metrics(ranks["a", seed][of])["ndcg@10"] for seed in (1, 2)]
        assert piece.ndcg == {"a": pytest.approx(sum(means) / 2), "b": 0.5}
