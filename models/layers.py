"""The two building blocks of every net here: a three-layer MLP and a GRU with its input projection kept apart.

The projection is apart because one history is encoded from many initial states (one a candidate, eq. 7): its inputs
are then projected once. Gate order and formula are those of `torch.nn.GRU`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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


class Gru(nn.Module):
    """A GRU of inputs [d] and state [d]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w_ih = nn.Parameter(torch.empty(3 * dim, dim))
        self.w_hh = nn.Parameter(torch.empty(3 * dim, dim))
        self.b_ih = nn.Parameter(torch.empty(3 * dim))
        self.b_hh = nn.Parameter(torch.empty(3 * dim))

    def project(self, x: Tensor) -> Tensor:
        """The inputs' share of the gates: [..., d] -> [..., 3 d]."""
        return functional.linear(x, self.w_ih, self.b_ih)

    def step(self, projected: Tensor, h: Tensor) -> Tensor:
        """One step: projected [..., 3 d], state [..., d] -> state [..., d]."""
        of_state = functional.linear(h, self.w_hh, self.b_hh)
        d = h.shape[-1]
        gates = torch.sigmoid(projected[..., : 2 * d] + of_state[..., : 2 * d])
        new = torch.tanh(projected[..., 2 * d :] + gates[..., :d] * of_state[..., 2 * d :])
        return new + gates[..., d:] * (h - new)

    def fold(self, x: Tensor, mask: Tensor, h: Tensor) -> Tensor:
        """The last state from each of C initial states of B histories.

        `x` [B, L, d] is left-padded, `mask` [B, L] is true on items, `h` [B, C, d] -> [B, C, d].
        """
        projected = self.project(x).unsqueeze(2)  # [B, L, 1, 3 d]: shared by the C states
        real = mask[:, :, None, None]
        for t in range(x.shape[1]):
            h = torch.where(real[:, t], self.step(projected[:, t], h), h)
        return h
