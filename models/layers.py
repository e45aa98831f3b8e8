"""What the nets share: histories as padded vectors, and the three-layer MLP that every net ends in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Sequence(NamedTuple):
    """Left-padded vectors [B, L, d] and their mask [B, L], true on items."""

    x: Tensor
    mask: Tensor


class Mlp(nn.Module):
    """Linear, ReLU, linear, ReLU, linear to one number: [..., inputs] -> [...]."""

    def __init__(self, inputs: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.last = nn.Linear(hidden[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [...]."""
        return self.rest(self.first(x))

    def rest(self, before: Tensor) -> Tensor:
        """What follows the first linear map: [..., hidden[0]] -> [...]."""
        hidden = torch.relu(self.second(torch.relu(before)))
        logit: Tensor = self.last(hidden).squeeze(-1)
        return logit
