"""The co-occurrence loss: which clicks and negatives count, and that related items get similar vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.data.catalogue import FIRST_ROW
from models.mc2sf.nets import NetConfig, Nets
from models.training.cooccurrence_loss import cooccurrence_loss
from models.training.minibatches import Batch, to_batch
from models.training.retrain import TrainConfig, train_item_table

ROWS = FIRST_ROW + 12


def batch(history: list[list[int]], clicks: list[list[int]], items: list[list[int]]) -> Batch:
    nothing = np.zeros((len(items), 2), np.int64)
    of = (np.array(history), nothing, np.array(clicks), nothing, np.array(items))
    return to_batch(of, np.zeros((*of[-1].shape, 3), np.uint8), ROWS, np.random.default_rng(0), 0.0)


def loss(given: Batch, E: torch.Tensor) -> float:
    return float(cooccurrence_loss(E[given.rows], given))


@pytest.fixture
def item_table() -> torch.Tensor:
    table = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
    table[0] = 0
    return table


def test_it_is_the_cross_entropy_of_a_click_given_the_mean_of_the_clicks_before(item_table: torch.Tensor) -> None:
    given = batch([[0, 3], [4, 5]], [[0, 6], [0, 0]], [[7, 8], [9, 10]])
    total = 0.0
    for before, clicked in (([3, 6], 7), ([4, 5], 9)):
        context = item_table[before].mean(0)
        others = torch.stack([context @ item_table[row] for row in (clicked, 8, 10)])
        total -= float(torch.log_softmax(others, 0)[0])
    assert loss(given, item_table) == pytest.approx(total / 2, rel=1e-5)


def test_a_click_is_no_negative_of_its_own(item_table: torch.Tensor) -> None:
    twice = batch([[3, 4], [5, 6]], [[0, 0], [0, 0]], [[7, 8], [9, 7]])
    once = -float(torch.log_softmax(item_table[[3, 4]].mean(0) @ item_table[[7, 8]].t(), 0)[0])
    other = -float(torch.log_softmax(item_table[[5, 6]].mean(0) @ item_table[[9, 8, 7]].t(), 0)[0])
    assert loss(twice, item_table) == pytest.approx((once + other) / 2, rel=1e-5)


def test_users_without_a_click_before_are_left_out(item_table: torch.Tensor) -> None:
    alone = batch([[0, 3]], [[0, 4]], [[7, 8]])
    beside = batch([[0, 3], [0, 0]], [[0, 4], [0, 0]], [[7, 8], [9, 8]])
    once = -float(torch.log_softmax(item_table[[3, 4]].mean(0) @ item_table[[7, 8, 8]].t(), 0)[0])
    assert loss(beside, item_table) == pytest.approx(once, rel=1e-5)
    assert loss(beside, item_table) > loss(alone, item_table)  # only its negative is shared
    assert loss(batch([[0, 0]], [[0, 0]], [[9, 8]]), item_table) == 0


def test_items_that_follow_each_other_get_similar_vectors() -> None:
    draw = np.random.default_rng(0)
    low, high = np.arange(FIRST_ROW, FIRST_ROW + 6), np.arange(FIRST_ROW + 6, ROWS)
    batches = []
    for _ in range(150):
        groups = [low if draw.random() < 0.5 else high for _ in range(32)]
        history = np.array([draw.choice(group, 4) for group in groups]).tolist()
        items = [[int(draw.choice(group)), *draw.integers(FIRST_ROW, ROWS, 2).tolist()] for group in groups]
        batches.append(batch(history, [[0, 0]] * 32, items))
    nets = Nets.initial(NetConfig(dim=8), ROWS, 1)
    train_item_table(nets, batches, TrainConfig())
    E = torch.nn.functional.normalize(nets.encoder.E.detach()[FIRST_ROW:], dim=1)
    alike = E @ E.t()
    within = torch.cat([alike[:6, :6], alike[6:, 6:]]).mean()
    assert within > alike[:6, 6:].mean() + 0.5
