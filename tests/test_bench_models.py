"""The yardsticks of the benchmarks are right: river's models learn on request, and matrix products are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.recbole.matmul_limit import Products, seconds
from benchmarks.recbole.ours import OverCatalogue
from benchmarks.training.river_models import Asked, models
from models.baselines.gru4rec import GRU4Rec, GRU4RecConfig
from models.baselines.sasrec import SASRec, SASRecConfig
from models.data.catalogue import FIRST_ROW
from models.training.objectives import SequenceBatch
from streams.prequential.river_baseline import RiverBaseline


def lists(n: int) -> list[Asked]:
    """Lists of ten items of which the one that is clicked is always item 7."""
    rng = np.random.default_rng(1)
    found = []
    for i in range(n):
        items = rng.permutation(10)
        found.append(Asked(f"u{i % 5}", items, int(np.flatnonzero(items == 7)[0]), int(items[0])))
    return found


@pytest.mark.parametrize("name", list(models(1)))
def test_each_of_rivers_models_learns_a_favourite_and_asking_changes_nothing(name: str) -> None:
    peer, silent = models(1)[name], models(1)[name]
    for asked in lists(300):
        assert peer.rank(asked) == peer.rank(asked)
        peer.learn(asked)
        silent.learn(asked)
    after = lists(340)[300:]
    assert [peer.rank(asked).rank for asked in after] == [1] * len(after)
    assert [silent.rank(asked).rank for asked in after] == [1] * len(after)


def test_biased_mf_is_the_variant_river_rank_for_rank() -> None:
    peer, own = models(3)["BiasedMF"], RiverBaseline(3)
    for asked in lists(100):
        assert peer.rank(asked) == own.rank(asked.user, asked.candidates, asked.place)
        peer.learn(asked)
        own.learn(asked.user, asked.candidates, asked.place)


def test_the_products_of_a_layer_and_of_attention_are_counted_forwards_and_backwards() -> None:
    x = torch.randn(5, 3, requires_grad=True)
    with Products() as products:
        nn.Linear(3, 4)(x).sum().backward()
    assert products.flops() == 3 * 2 * 5 * 3 * 4  # the layer, and the gradients of input and weight
    q = torch.randn(2, 1, 6, 8, requires_grad=True)
    with Products() as products:
        nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    assert products.flops() == 7 * 2 * 2 * 6 * 6 * 8  # two forwards and, with the scores made again, five backwards
    assert seconds(products.counts, least=1e-4) > 0


@pytest.mark.parametrize(
    "net", [GRU4Rec(GRU4RecConfig(8, 16, 5, 0.0), 30), SASRec(SASRecConfig(8, 5, dropout=0.0), 30)]
)
def test_recboles_loss_is_the_cross_entropy_over_all_items(net: GRU4Rec | SASRec) -> None:
    sequences = torch.tensor([[0, 0, 5, 9, 11], [4, 20, 8, 7, 2]])
    targets = torch.tensor([[0, 0, 9, 11, 29], [0, 8, 7, 2, 3]])
    batch = SequenceBatch(
        sequences, targets, torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(2, 0).bool()
    )
    states, items = net.states(sequences), torch.arange(FIRST_ROW, 30)
    losses = [
        -torch.log_softmax(net.logits(states[i, j], items), 0)[targets[i, j] - FIRST_ROW]
        for i in range(2)
        for j in range(5)
        if targets[i, j] > 0
    ]
    torch.testing.assert_close(OverCatalogue(net, 30)(batch), torch.stack(losses).mean())
