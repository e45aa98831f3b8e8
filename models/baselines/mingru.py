"""minGRU layers over the clicks (Feng et al., arXiv 2410.01201).

A device needs one small matrix product per click, and training runs over all positions in parallel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.baselines.sequential import Sequential
from models.data.catalogue import ROW_PADDING
from models.data.queries import recent
from models.layers.min_gru import scan


@dataclass(frozen=True)
class MinGRUConfig:
    """Sizes of the net."""

    dim: int = 32
    hidden: int = 64
    layers: int = 2
    length: int = 50
    dropout: float = 0.2


class MinGRUBlock(nn.Module):
    """One recurrence with layer norm and residual."""

    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.gate_and_new = nn.Linear(config.dim, 2 * config.hidden)
        self.out = nn.Linear(config.hidden, config.dim)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Apply the block to x [B, L, d], real bool [B, L, 1] -> [B, L, d]. Padding leaves the state unchanged."""
        gate, new = self.gate_and_new(self.norm(x)).chunk(2, dim=-1)
        z = torch.sigmoid(gate) * real
        change: Tensor = self.drop(self.out(scan(1 - z, z * torch.tanh(new))))
        return x + change


class MinGRU(Sequential):
    """Layers of minGRU over the clicks."""

    def __init__(self, config: MinGRUConfig, rows: int) -> None:
        super().__init__(rows, config.dim, config.length, recent)
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(MinGRUBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def states(self, sequences: Tensor) -> Tensor:
        """See `Sequential.states`."""
        real = (sequences != ROW_PADDING)[..., None]
        x = self.drop(self.items(sequences) * self.items.embedding_dim**0.5)
        for layer in self.layers:
            x = layer(x, real)
        states: Tensor = self.norm(x)
        return states
