"""HSTU: blocks of gated attention over the clicks (Zhai et al., arXiv 2402.17152)."""

from __future__ import annotations

from torch import Tensor, nn

from models.baselines.sequential import Sequential
from models.data.catalogue import ROW_PADDING
from models.data.queries import delayed
from models.layers.hstu_block import HSTUBlock, HSTUConfig, apply_blocks


class HSTU(Sequential):
    """HSTU blocks over the clicks."""

    def __init__(self, config: HSTUConfig, rows: int) -> None:
        super().__init__(rows, config.dim, config.length, delayed)
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(HSTUBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def states(self, sequences: Tensor) -> Tensor:
        """See `Sequential.states`."""
        real = sequences != ROW_PADDING
        x = self.drop(self.items(sequences) * self.items.embedding_dim**0.5) * real[..., None]
        states: Tensor = self.norm(apply_blocks(self.layers, x, real))
        return states
