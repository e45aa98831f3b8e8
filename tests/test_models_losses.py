from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from models.training import losses

LOGITS = torch.tensor([[1.0, -0.5, 2.0], [0.0, 3.0, -1.0]])
EVERY = [losses.bce, losses.bpr, losses.sampled_softmax, partial(losses.gbce, items=100)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_bce_is_the_mean_over_pairs() -> None:
    rows = [[(1.0, 1), (-0.5, 0), (2.0, 0)], [(0.0, 1), (3.0, 0), (-1.0, 0)]]
    expected = [-math.log(sigmoid(x) if clicked else 1 - sigmoid(x)) for row in rows for x, clicked in row]
    assert losses.bce(LOGITS).item() == pytest.approx(sum(expected) / 6)


def test_bpr_is_the_mean_over_pairs() -> None:
    differences = [1.0 + 0.5, 1.0 - 2.0, 0.0 - 3.0, 0.0 + 1.0]
    assert losses.bpr(LOGITS).item() == pytest.approx(sum(-math.log(sigmoid(x)) for x in differences) / 4)


def test_sampled_softmax_is_cross_entropy_of_the_first_column() -> None:
    first = -math.log(math.exp(1) / (math.exp(1) + math.exp(-0.5) + math.exp(2)))
    second = -math.log(1 / (1 + math.exp(3) + math.exp(-1)))
    assert losses.sampled_softmax(LOGITS).item() == pytest.approx((first + second) / 2)


def test_gbce_without_calibration_is_bce() -> None:
    assert losses.gbce(LOGITS, 100, 0.0).item() == pytest.approx(losses.bce(LOGITS).item())


def test_gbce_fully_calibrated_weighs_the_click_by_the_sampling_rate() -> None:
    negatives = torch.nn.functional.softplus(LOGITS[:, 1:]).sum()
    clicks = torch.nn.functional.softplus(-LOGITS[:, :1]).sum()
    assert losses.gbce(LOGITS, 101, 1.0).item() == pytest.approx(((0.02 * clicks + negatives) / 6).item())


@pytest.mark.parametrize("loss", EVERY)
def test_a_hidden_negative_weighs_nothing_and_gets_no_gradient(loss: losses.Loss) -> None:
    logits = LOGITS.clone().requires_grad_()
    hidden = torch.tensor([[False, True, False], [False, False, False]])
    loss(logits.masked_fill(hidden, -torch.inf)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] == 0
    assert (logits.grad[~hidden] != 0).all()


@pytest.mark.parametrize("loss", EVERY)
def test_every_loss_pulls_the_click_up_and_negatives_down(loss: losses.Loss) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss(logits).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] < 0).all()
    assert (logits.grad[:, 1:] > 0).all()


def test_the_corrected_sampled_softmax_finds_the_full_one() -> None:
    """Its gradient, averaged over draws from a non-uniform q, is that of the softmax over the whole catalogue."""
    generator = torch.Generator().manual_seed(1)
    items, n = 8, 400
    scores = torch.randn(items, generator=generator)
    q = torch.softmax(2 * torch.randn(items, generator=generator), 0)

    def gradient(corrects: bool) -> Tensor:
        total = torch.zeros(items)
        for _ in range(60):
            values = scores.clone().requires_grad_()
            drawn = torch.multinomial(q, n, replacement=True, generator=generator)
            rows = torch.cat([torch.tensor([3]), drawn])
            hidden = torch.cat([torch.tensor([False]), drawn == 3])
            log_q = torch.log(n * q)[rows] if corrects else torch.zeros(n + 1)
            log_q[0] = 0.0  # the click is there in any case: it counts once
            losses.sampled_softmax(
                losses.corrected(values[rows], log_q).masked_fill(hidden, -torch.inf)[None]
            ).backward()
            assert values.grad is not None
            total += values.grad / 60
        return total

    full = torch.softmax(scores, 0) - torch.nn.functional.one_hot(torch.tensor(3), items)
    torch.testing.assert_close(gradient(corrects=True), full, atol=0.02, rtol=0)
    assert (gradient(corrects=False) - full).abs().max() > 0.1


def test_gbce_needs_a_negative_and_more_than_the_catalogue_count_as_all_of_it() -> None:
    with pytest.raises(ValueError, match="at least one negative"):
        losses.gbce(LOGITS[:, :1], 100)
    assert losses.gbce(LOGITS, 2).item() == pytest.approx(losses.bce(LOGITS).item())


def test_the_catalogue_size_is_bound_if_the_loss_takes_it() -> None:
    of_ten = losses.bind_catalogue_size(partial(losses.gbce, calibration=0.5), 10)
    assert of_ten(LOGITS).item() == losses.gbce(LOGITS, 10, 0.5).item()
    assert losses.bind_catalogue_size(losses.bce, 10) is losses.bce


@pytest.mark.parametrize("negatives", [1, 16, 128])
def test_the_prior_logit_is_that_of_the_odds_of_a_click(negatives: int) -> None:
    assert losses.prior_logit(losses.bce, negatives) == pytest.approx(-math.log(negatives), abs=1e-3)
    fully = partial(losses.gbce, items=1001, calibration=1.0)  # a click weighs what the sampling leaves of it
    assert losses.prior_logit(fully, negatives) == pytest.approx(-math.log(1000), abs=1e-3)
    assert losses.prior_logit(losses.bpr, negatives) == losses.prior_logit(losses.sampled_softmax, negatives) == 0
