"""DCCL: a frozen cloud backbone with a small patch per device, after Yao et al., arXiv 2104.06624.

The backbone is fitted to all users and then frozen; each device fits 2 d numbers that scale and shift its state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.baselines.sequential import Sequential
from models.data.queries import Queries


class Dccl(nn.Module):
    """A sequential backbone and the patches of all users; a patch of zeros leaves the state unchanged."""

    def __init__(self, backbone: Sequential, users: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(requires_grad=False)
        self.patches = nn.Embedding(users, 2 * backbone.items.embedding_dim)
        with torch.no_grad():
            self.patches.weight.zero_()

    def train(self, mode: bool = True) -> Dccl:
        """Set the training mode; the frozen backbone stays in evaluation mode, without dropout."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]."""
        sequences, sequence_index = self.backbone.reads(queries)
        states = self.backbone.states(sequences[:, -self.backbone.length :])[:, -1][sequence_index]
        scale, shift = self.patches(queries.users).chunk(2, -1)
        return self.backbone.logits(states * (1 + scale) + shift, items)
