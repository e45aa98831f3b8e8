"""The HSTU block: gated attention without softmax, with weights per distance (Zhai et al., arXiv 2402.17152)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.causal_mask import causal_mask


@dataclass(frozen=True)
class HSTUConfig:
    """Sizes of HSTU blocks."""

    dim: int = 32
    length: int = 50
    layers: int = 2
    heads: int = 1
    dropout: float = 0.2


class HSTUBlock(nn.Module):
    """One block: x + W2(norm(SiLU(QK' + distance) V) * U), with U, V, Q, K = SiLU(W1 norm(x))."""

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.dim)
        self.project = nn.Linear(config.dim, 4 * config.dim)
        self.distance = nn.Parameter(torch.zeros(config.heads, config.length))
        self.mixed_norm = nn.LayerNorm(config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.drop = nn.Dropout(config.dropout)

    def reset(self) -> None:
        """Initialise norms and distance weights; the matrices are left unchanged."""
        self.norm.reset_parameters()
        self.mixed_norm.reset_parameters()
        nn.init.zeros_(self.distance)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Apply the block to x [B, L, d]; weights [B, L, L] are zero for positions not attended to -> [B, L, d]."""
        batch, length, dim = x.shape
        u, v, q, k = (
            functional.silu(self.project(self.norm(x))).view(batch, length, 4, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        positions = torch.arange(length, device=x.device)
        # [heads, L, L]; padding may make a sequence longer than the table of distances: no position attends that far
        near = self.distance[:, (positions[:, None] - positions).clamp(0, self.distance.shape[1] - 1)]
        attention = functional.silu(q @ k.transpose(-1, -2) + near) * weights[:, None]
        mixed = (attention @ v).transpose(1, 2).reshape(batch, length, dim)
        gate = u.transpose(1, 2).reshape(batch, length, dim)
        change: Tensor = self.drop(self.out(self.mixed_norm(mixed) * gate))
        return x + change


def apply_blocks(layers: nn.ModuleList, x: Tensor, real: Tensor) -> Tensor:
    """Apply blocks to x [B, L, d], real bool [B, L] (true on items); sums are divided by the items attended to."""
    mask = causal_mask(real)
    weights = mask / mask.sum(-1, keepdim=True)
    for layer in layers:
        x = layer(x, weights)
    return x
