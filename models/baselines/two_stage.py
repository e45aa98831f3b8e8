"""Vanilla slow + fast: what a trained slow net thinks of a candidate is a feature of the fast one (DIN + FM, ...)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from models.baselines.sequential import Sequential
from models.data.queries import Queries

HINTS = 2  # the slow net's logit and its sigmoid


class InformedNet(Protocol):
    """A fast net that takes features of candidates."""

    def __call__(self, queries: Queries, items: Tensor, hints: Tensor) -> Tensor:
        """Scores [V, C] of `items` [V, C] with `hints` [V, C, h]."""
        ...


class InformedSequential(nn.Module):
    """A sequential net (GRU4Rec) with features of the candidate added to its score."""

    def __init__(self, net: Sequential) -> None:
        super().__init__()
        self.net = net
        self.hint_weights = nn.Parameter(torch.ones(HINTS))

    def forward(self, queries: Queries, items: Tensor, hints: Tensor) -> Tensor:
        """Scores [V, C] of `items` [V, C]."""
        return self.net(queries, items) + hints @ self.hint_weights  # type: ignore[no-any-return]


class TwoStage(nn.Module):
    """A fast net that is told the slow net's score. The score, not the rank: it is the same in lists of any length."""

    def __init__(self, slow: nn.Module, fast: InformedNet) -> None:
        super().__init__()
        self.slow = slow.requires_grad_(requires_grad=False)
        self.fast = fast

    def forward(self, queries: Queries, items: Tensor) -> Tensor:
        """Scores [V, C] of `items` [V, C]; no gradient reaches the slow net."""
        with torch.no_grad():
            logits = self.slow(queries, items)
        return self.fast(queries, items, torch.stack([logits, torch.sigmoid(logits)], -1))
