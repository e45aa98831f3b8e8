"""HSTU: gated attention without softmax, places known by distance only (Zhai et al., arXiv 2402.17152)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.baselines.sasrec import visible
from models.baselines.sequential import Reads, Sequential
from models.data.catalogue import ROW_PADDING
from models.data.queries import delayed


@dataclass(frozen=True)
class HSTUConfig:
    """Sizes of HSTU."""

    dim: int = 32
    length: int = 50
    layers: int = 2
    heads: int = 1
    dropout: float = 0.2


class Layer(nn.Module):
    """Y = W2(norm(SiLU(QK' + distance) V) * U), with U, V, Q, K = SiLU(W1 norm(x)), and a residual."""

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.dim)
        self.project = nn.Linear(config.dim, 4 * config.dim)
        self.distance = nn.Parameter(torch.zeros(config.heads, config.length))
        self.mixed_norm = nn.LayerNorm(config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.drop = nn.Dropout(config.dropout)

    def as_new(self) -> None:
        """Norms and distances as they begin; the matrices stay as they are."""
        self.norm.reset_parameters()
        self.mixed_norm.reset_parameters()
        nn.init.zeros_(self.distance)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Inputs x [B, L, d], weights [B, L, L] (zero where a place may not look) -> [B, L, d]."""
        batch, length, dim = x.shape
        u, v, q, k = (
            functional.silu(self.project(self.norm(x))).view(batch, length, 4, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        places = torch.arange(length, device=x.device)
        # [heads, L, L]; padding may make a sequence longer than there are distances: nobody sees that far
        near = self.distance[:, (places[:, None] - places).clamp(0, self.distance.shape[1] - 1)]
        attention = functional.silu(q @ k.transpose(-1, -2) + near) * weights[:, None]
        mixed = (attention @ v).transpose(1, 2).reshape(batch, length, dim)
        gate = u.transpose(1, 2).reshape(batch, length, dim)
        return x + self.drop(self.out(self.mixed_norm(mixed) * gate))  # type: ignore[no-any-return]


def through(layers: nn.ModuleList, x: Tensor, real: Tensor) -> Tensor:
    """Inputs x [B, L, d], real bool [B, L] through layers; sums are divided by how many items a place sees."""
    mask = visible(real)
    weights = mask / mask.sum(-1, keepdim=True)
    for layer in layers:
        x = layer(x, weights)
    return x


class HSTU(Sequential):
    """Layers of HSTU over the clicks."""

    def __init__(self, config: HSTUConfig, rows: int, reads: Reads = delayed) -> None:
        super().__init__(rows, config.dim, config.length, reads)
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def states(self, sequences: Tensor) -> Tensor:
        """See `Sequential.states`."""
        real = sequences != ROW_PADDING
        x = self.drop(self.items(sequences) * self.items.embedding_dim**0.5) * real[..., None]
        return self.norm(through(self.layers, x, real))  # type: ignore[no-any-return]
