"""Two-stage models: a fast net with the score of a trained slow net as a feature of each candidate (DIN+FM, ...)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from models.baselines.sequential import Sequential
from models.data.queries import Queries

HINTS = 2  # features from the slow net: its logit and the sigmoid of it


class InformedNet(Protocol):
    """A fast net that takes features of candidates from a slow net."""

    def __call__(self, queries: Queries, items: Tensor, hints: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C] with features `hints` [V, C, h]."""
        ...


class InformedSequential(nn.Module):
    """A sequential net (GRU4Rec) plus a linear term of the candidate's features."""

    def __init__(self, net: Sequential) -> None:
        super().__init__()
        self.net = net
        self.hint_weights = nn.Parameter(torch.ones(HINTS))

    def forward(self, queries: Queries, items: Tensor, hints: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C] with features `hints` [V, C, h]."""
        scores: Tensor = self.net(queries, items)
        return scores + hints @ self.hint_weights


class TwoStage(nn.Module):
    """A fast net informed by a slow net's score: not by the rank, which depends on the length of the list."""

    def __init__(self, slow: nn.Module, fast: InformedNet) -> None:
        super().__init__()
        self.slow = slow.requires_grad_(requires_grad=False)
        self.fast = fast

    def forward(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]; no gradient reaches the slow net."""
        with torch.no_grad():
            logits = self.slow(queries, items)
        return self.fast(queries, items, torch.stack([logits, torch.sigmoid(logits)], -1))
