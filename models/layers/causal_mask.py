"""The causal mask of self-attention over left-padded sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(real: Tensor) -> Tensor:
    """Return which positions each position attends to: bool [B, L] (true on items) -> bool [B, L, L].

    A position attends to itself, so that no row of a softmax is empty, and to the items before it.
    """
    length = real.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=real.device)
    return (before & real[:, None, :]) | itself
