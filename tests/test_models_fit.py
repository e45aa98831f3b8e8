from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.training.fit import FitConfig, fit

CONFIG = FitConfig(learning_rate=0.05, epochs=6, patience=6)


class Line(nn.Module):
    """A linear regression with dropout, so that random numbers matter, and a table of which one row is used."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Linear(3, 1)
        self.table = nn.Embedding(4, 1)
        self.drop = nn.Dropout(0.2)
        with torch.no_grad():
            for p in self.parameters():
                p.fill_(0.5)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        row = self.table(torch.ones(len(x), dtype=torch.int64))
        return (self.slope(self.drop(x)) + row - y).square().mean()


def batches(epoch: int, generator: np.random.Generator) -> Iterable[tuple[Tensor, Tensor]]:  # noqa: ARG001
    for _ in range(4):
        x = torch.from_numpy(generator.normal(size=(8, 3)).astype(np.float32))
        yield x, x.sum(1, keepdim=True)


class Scores:
    """Validation scores given in advance, by epoch; a resumed fit continues with its next epoch."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def __call__(self) -> float:
        return self.scores.pop(0)


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def test_the_weights_are_those_of_the_best_epoch() -> None:
    net, short = Line(), Line()
    fitted = fit(net, batches, Scores(0.1, 0.3, 0.2, 0.2, 0.1, 0.0), CONFIG, seed=1)
    assert fitted.best == 1
    fit(short, batches, Scores(0.1, 0.3), replace(CONFIG, epochs=2), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(weights(net), weights(short), strict=True))


def test_it_stops_when_patience_is_over() -> None:
    fitted = fit(Line(), batches, Scores(0.3, 0.2, 0.1, 0.9), replace(CONFIG, patience=2), seed=1)
    assert fitted.curve == (0.3, 0.2, 0.1)


def test_an_interrupted_fit_resumes_with_the_same_result(tmp_path: Path) -> None:
    scores = (0.1, 0.2, 0.5, 0.3, 0.4, 0.45)
    whole, cut = Line(), Line()
    expected = fit(whole, batches, Scores(*scores), CONFIG, seed=1)
    file = tmp_path / "fit.safetensors"
    fit(cut, batches, Scores(*scores[:4]), replace(CONFIG, epochs=4), seed=1, state_file=file)
    again = Line()
    assert fit(again, batches, Scores(*scores[4:]), CONFIG, seed=1, state_file=file) == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))
    finished = Line()
    assert fit(finished, batches, Scores(), CONFIG, seed=1, state_file=file) == expected


def test_with_bf16_it_learns_nearly_the_same_in_weights_of_full_precision() -> None:
    nets = Line(), Line()
    for net, bf16 in zip(nets, (False, True), strict=True):
        fit(net, batches, Scores(*np.arange(6.0)), replace(CONFIG, bf16=bf16), seed=1)
    for whole, halved in zip(*map(weights, nets), strict=True):
        assert halved.dtype == torch.float32
        torch.testing.assert_close(whole, halved, atol=0.05, rtol=0.05)
    assert not torch.equal(*(net.slope.weight for net in nets))


def test_another_seed_gives_other_weights() -> None:
    nets = Line(), Line()
    for seed, net in enumerate(nets):
        fit(net, batches, Scores(*[0.1] * 6), CONFIG, seed)
    assert not torch.equal(*(net.slope.weight for net in nets))


def test_l2_acts_on_the_rows_of_the_batch_only() -> None:
    net = Line()
    fit(net, batches, Scores(*np.arange(6.0)), replace(CONFIG, l2=10.0), seed=1)
    table = net.table.weight[:, 0]
    assert table[[0, 2, 3]].tolist() == [0.5] * 3
    assert abs(table[1]) < 0.2
    assert net.slope.weight.abs().max() < 0.3


def test_a_frozen_weight_stays() -> None:
    net = Line()
    net.slope.requires_grad_(requires_grad=False)
    fit(net, batches, Scores(*np.arange(6.0)), CONFIG, seed=1)
    assert (net.slope.weight == 0.5).all()
    assert (net.table.weight[1] != 0.5).all()


def test_a_loss_that_is_not_a_number_is_an_error() -> None:
    def broken(epoch: int, generator: np.random.Generator) -> Iterable[tuple[Tensor, Tensor]]:  # noqa: ARG001
        yield torch.full((2, 3), torch.nan), torch.ones(2, 1)

    with pytest.raises(FloatingPointError, match="epoch 0"):
        fit(Line(), broken, Scores(0.1), CONFIG, seed=1)


def test_progress_is_called_after_each_epoch() -> None:
    calls: list[tuple[int, float]] = []
    fit(
        Line(),
        batches,
        Scores(0.1, 0.2),
        replace(CONFIG, epochs=2),
        seed=1,
        progress=lambda epoch, _, score: calls.append((epoch, score)),
    )
    assert calls == [(0, 0.1), (1, 0.2)]
