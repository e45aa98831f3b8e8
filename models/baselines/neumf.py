"""NeuMF: the sum of a product and an MLP of user and item (He et al., arXiv 1708.05031)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.data.catalogue import ROW_PADDING
from models.data.queries import Queries
from models.layers.mlp import Mlp


@dataclass(frozen=True)
class NeuMFConfig:
    """Sizes of NeuMF."""

    dim: int = 32
    hidden: tuple[int, int] = (64, 32)
    hints: int = 0  # number of features from a slow net: see `two_stage`


class NeuMF(nn.Module):
    """A product branch and an MLP branch with separate embeddings, added."""

    def __init__(self, config: NeuMFConfig, rows: int, users: int) -> None:
        super().__init__()
        self.product_items = nn.Embedding(rows, config.dim, padding_idx=ROW_PADDING)
        self.product_users = nn.Embedding(users, config.dim)
        self.deep_items = nn.Embedding(rows, config.dim, padding_idx=ROW_PADDING)
        self.deep_users = nn.Embedding(users, config.dim)
        self.product = nn.Linear(config.dim, 1, bias=False)
        self.mlp = Mlp(2 * config.dim + config.hints, config.hidden)
        self.hint_weights = nn.Parameter(torch.ones(config.hints))
        with torch.no_grad():
            for table in (self.product_items, self.product_users, self.deep_items, self.deep_users):
                table.weight.mul_(0.05)
            self.product.weight.fill_(1.0)

    @property
    def item_tables(self) -> tuple[Tensor, ...]:
        """The tables [rows, d] with one vector per item."""
        return self.product_items.weight, self.deep_items.weight

    def forward(self, queries: Queries, items: Tensor, hints: Tensor | None = None) -> Tensor:
        """Return scores [V, C] of `items` [V, C] with features `hints` [V, C, h]."""
        product: Tensor = self.product(self.product_users(queries.users)[:, None] * self.product_items(items))[..., 0]
        users = self.deep_users(queries.users)[:, None].expand(-1, items.shape[1], -1)
        deep = [users, self.deep_items(items)]
        if hints is not None:
            deep.append(hints)
            product = product + hints @ self.hint_weights
        scores: Tensor = product + self.mlp(torch.cat(deep, -1))
        return scores
