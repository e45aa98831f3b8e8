"""Losses of a click: pure functions of logits [B, 1 + N], of which column 0 is the clicked item, to one number."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor], Tensor]


def bce(logits: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over all pairs (eq. 2, 4)."""
    return (functional.softplus(-logits[:, :1]).sum() + functional.softplus(logits[:, 1:]).sum()) / logits.numel()


def bpr(logits: Tensor) -> Tensor:
    """The pairwise loss -log sigmoid(clicked - negative), the mean over pairs (Rendle et al., arXiv 1205.2618)."""
    return functional.softplus(logits[:, 1:] - logits[:, :1]).mean()


def sampled_softmax(logits: Tensor) -> Tensor:
    """Cross-entropy of the clicked item among its own list; see `corrected` for negatives drawn unevenly."""
    return -functional.log_softmax(logits, 1)[:, 0].mean()


def corrected(logits: Tensor, log_q: Tensor) -> Tensor:
    """Logits less log_q, of one shape: the sampled softmax then estimates that over the whole catalogue.

    `log_q` is the log of how often a negative is drawn in expectation, and 0 for the click, which is there in any
    case (Bengio & Senecal, 2008; for the click: Khrylchenko et al., arXiv 2507.09331).
    """
    return logits - log_q


def gbce(logits: Tensor, items: int, calibration: float = 0.75) -> Tensor:
    """gBCE: the clicked item's sigmoid to a power below 1 undoes the overconfidence that few negatives teach.

    `items` is the size of the catalogue, `calibration` t in [0, 1]; t = 0 is plain BCE (Petrov & Macdonald,
    arXiv 2308.07192, eq. 9 and 10). Raises ValueError without negatives.
    """
    if logits.shape[1] < 2:
        raise ValueError("gBCE needs at least one negative")
    rate = min(1.0, (logits.shape[1] - 1) / max(items - 1, 1))
    power = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    clicked = power * functional.softplus(-logits[:, :1])
    return (clicked.sum() + functional.softplus(logits[:, 1:]).sum()) / logits.numel()


def bind_catalogue_size(loss: Callable[..., Tensor], items: int) -> Loss:
    """A loss that asks for the size of the catalogue, told it; any other as it is."""
    return partial(loss, items=items) if "items" in inspect.signature(loss).parameters else loss


def prior_logit(loss: Loss, negatives: int) -> float:
    """The logit of all items that a loss asks for where nothing is known: minus the log of the odds of a negative.

    0 where only differences count. A net that begins elsewhere and has no bias in common to all items first learns to
    score none of them (the prior of Lin et al., arXiv 1708.02002, section 3.3).
    """
    logit = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([logit], max_iter=100, line_search_fn="strong_wolfe")

    def value() -> Tensor:
        search.zero_grad()
        found = loss(logit.expand(1, 1 + negatives))
        found.backward()  # type: ignore[no-untyped-call]
        return found

    search.step(value)  # type: ignore[no-untyped-call]
    return logit.item()
