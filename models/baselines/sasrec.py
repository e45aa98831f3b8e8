"""SASRec: self-attention over the clicks (Kang & McAuley, arXiv 1808.09781). With `losses.gbce` it is gSASRec."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.baselines.sequential import SequenceReader, Sequential
from models.data.catalogue import ROW_PADDING
from models.data.queries import delayed
from models.layers.causal_mask import causal_mask


@dataclass(frozen=True)
class SASRecConfig:
    """Sizes of SASRec."""

    dim: int = 32
    length: int = 50
    layers: int = 2
    heads: int = 1
    dropout: float = 0.2


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.before_attention = nn.LayerNorm(config.dim)
        self.queries_keys_values = nn.Linear(config.dim, 3 * config.dim)
        self.merge = nn.Linear(config.dim, config.dim)
        self.feed = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Linear(config.dim, 4 * config.dim),
            nn.GELU(),
            nn.Linear(4 * config.dim, config.dim),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply the block to x [B, L, d], mask bool [B, L, L] -> [B, L, d]."""
        batch, length, dim = x.shape
        heads = self.queries_keys_values(self.before_attention(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, L, d / heads]
        drop = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], dropout_p=drop)
        x = x + functional.dropout(self.merge(mixed.transpose(1, 2).reshape(batch, length, dim)), drop)
        fed: Tensor = self.feed(x)
        return x + fed


class SASRec(Sequential):
    """A transformer over the clicks; positions are counted from the newest click."""

    def __init__(self, config: SASRecConfig, rows: int, reads: SequenceReader = delayed) -> None:
        super().__init__(rows, config.dim, config.length, reads)
        self.positions = nn.Parameter(torch.randn(config.length, config.dim) * 0.02)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def states(self, sequences: Tensor) -> Tensor:
        """See `Sequential.states`."""
        scale = self.items.embedding_dim**0.5
        x = self.drop(self.items(sequences) * scale + self.positions[-sequences.shape[1] :])
        mask = causal_mask(sequences != ROW_PADDING)
        for block in self.blocks:
            x = block(x, mask)
        states: Tensor = self.norm(x)
        return states
