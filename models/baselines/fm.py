"""Factorisation machine over user, item and optional features from a slow net (Rendle, 2010)."""

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
    hints: int = 0  # number of features from a slow net: see `two_stage`


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
        """The tables [rows, d] with one vector per item."""
        return (self.items.weight,)

    def forward(self, queries: Queries, items: Tensor, hints: Tensor | None = None) -> Tensor:
        """Return scores [V, C] of `items` [V, C] with features `hints` [V, C, h].

        The user's linear term is left out, as it does not change a ranking.
        """
        fields = [self.users(queries.users)[:, None].expand(-1, items.shape[1], -1), self.items(items)]
        linear = self.item_bias(items)[..., 0]
        if hints is not None:
            linear = linear + hints @ self.hint_weights
            fields.append(hints @ self.hint_vectors)
        both = torch.stack(fields)  # [F, V, C, d]
        pairs = both.sum(0).square() - both.square().sum(0)  # sum over pairs is half of it
        scores: Tensor = linear + 0.5 * pairs.sum(-1)
        return scores
