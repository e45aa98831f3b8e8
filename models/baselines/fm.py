"""Factorisation machine over user, item and, if given, what the slow part thinks (Rendle, 2010)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.data.catalogue import ROW_PADDING
from models.data.queries import Queries


@dataclass(frozen=True)
class FMConfig:
    """Sizes of FM."""

    dim: int = 32
    hints: int = 0  # features of a candidate that come from the slow part


class FM(nn.Module):
    """Linear terms and the inner products of all pairs of fields."""

    def __init__(self, config: FMConfig, rows: int, users: int) -> None:
        super().__init__()
        self.items = nn.Embedding(rows, config.dim, padding_idx=ROW_PADDING)
        self.item_bias = nn.Embedding(rows, 1, padding_idx=ROW_PADDING)
        self.users = nn.Embedding(users, config.dim)
        self.hint_vectors = nn.Parameter(torch.randn(config.hints, config.dim) * 0.05)
        self.hint_weights = nn.Parameter(torch.ones(config.hints))
        with torch.no_grad():
            self.items.weight.mul_(0.05)
            self.users.weight.mul_(0.05)
            self.item_bias.weight.zero_()

    @property
    def item_tables(self) -> tuple[Tensor, ...]:
        """The tables [rows, d] that have a vector for each item."""
        return (self.items.weight,)

    def forward(self, queries: Queries, items: Tensor, hints: Tensor | None = None) -> Tensor:
        """Scores [V, C] of `items` [V, C], with `hints` [V, C, h]. The user's own linear term cancels in a ranking."""
        fields = [self.users(queries.users)[:, None].expand(-1, items.shape[1], -1), self.items(items)]
        linear = self.item_bias(items)[..., 0]
        if hints is not None:
            linear = linear + hints @ self.hint_weights
            fields.append(hints @ self.hint_vectors)
        both = torch.stack(fields)  # [F, V, C, d]
        pairs = both.sum(0).square() - both.square().sum(0)  # sum over pairs = (square of sum - sum of squares) / 2
        scores: Tensor = linear + 0.5 * pairs.sum(-1)
        return scores
