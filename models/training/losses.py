"""Losses of clicks: pure functions of logits [B, 1 + N], column 0 being the clicked item, to one number."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from models.optimisers.newton import minimum

Loss = Callable[[Tensor], Tensor]


def bce(logits: Tensor) -> Tensor:
    """Return binary cross-entropy, the mean over all pairs (eq. 2, 4)."""
    return (functional.softplus(-logits[:, :1]).sum() + functional.softplus(logits[:, 1:]).sum()) / logits.numel()


def bpr(logits: Tensor) -> Tensor:
    """Return the mean of -log sigmoid(clicked - negative) over pairs (Rendle et al., arXiv 1205.2618)."""
    return functional.softplus(logits[:, 1:] - logits[:, :1]).mean()


def sampled_softmax(logits: Tensor) -> Tensor:
    """Return the cross-entropy of the clicked item in its list; see `corrected` for negatives not drawn uniformly."""
    return -functional.log_softmax(logits, 1)[:, 0].mean()


def corrected(logits: Tensor, log_q: Tensor) -> Tensor:
    """Return logits - log_q: the sampled softmax then estimates the softmax over the whole catalogue.

    `log_q` is the log of the expected number of draws of a negative, and 0 for the click, which is always in the list
    (Bengio & Senecal, 2008; for the click: Khrylchenko et al., arXiv 2507.09331).
    """
    return logits - log_q


def gbce(logits: Tensor, items: int, calibration: float = 0.75) -> Tensor:
    """Return gBCE: a power below 1 of the clicked item's sigmoid corrects overconfidence caused by few negatives.

    `items` is the size of the catalogue, `calibration` is t in [0, 1]; t = 0 is plain BCE (Petrov & Macdonald,
    arXiv 2308.07192, eq. 9 and 10). Raises ValueError without negatives.
    """
    if logits.shape[1] < 2:
        raise ValueError("gBCE needs at least one negative")
    rate = min(1.0, (logits.shape[1] - 1) / max(items - 1, 1))
    power = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    clicked = power * functional.softplus(-logits[:, :1])
    return (clicked.sum() + functional.softplus(logits[:, 1:]).sum()) / logits.numel()


def bind_catalogue_size(loss: Callable[..., Tensor], items: int) -> Loss:
    """Bind the catalogue size if the loss takes it as `items`; return any other loss unchanged."""
    return partial(loss, items=items) if "items" in inspect.signature(loss).parameters else loss


def prior_logit(loss: Loss, negatives: int) -> float:
    """Return the common logit of all items that minimises a loss if nothing is known about them.

    It is minus the log odds of a negative, and 0 for losses of differences. A net that starts at another logit first
    has to learn this one (the prior of Lin et al., arXiv 1708.02002, section 3.3).
    """
    start = torch.zeros(1, dtype=torch.float64)
    return minimum(lambda logit: loss(logit.expand(1, 1 + negatives)), start).item()


def joint_loss(logits: Sequence[Tensor], loss: Loss) -> Tensor:
    """Return the sum of the four nets' losses; gradients between nets are cut as in the equations."""
    return torch.stack([loss(each) for each in logits]).sum()
