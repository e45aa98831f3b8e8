"""Caser: convolutions over the last few clicks as an image (Tang & Wang, arXiv 1809.07426)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.baselines.sequential import Sequential
from models.data.queries import delayed


@dataclass(frozen=True)
class CaserConfig:
    """Sizes of Caser: `horizontal` filters of each height and `vertical` filters over the last `window` items."""

    dim: int = 32
    length: int = 50
    window: int = 5
    horizontal: int = 16
    vertical: int = 4
    dropout: float = 0.2


class Caser(Sequential):
    """Horizontal and vertical filters over the window, then one layer.

    The paper's user vector is left out, so that users without training data can be scored.
    """

    def __init__(self, config: CaserConfig, rows: int) -> None:
        super().__init__(rows, config.dim, config.length, delayed)
        self.window = config.window
        heights = range(1, config.window + 1)
        self.horizontal = nn.ModuleList(nn.Conv1d(config.dim, config.horizontal, height) for height in heights)
        self.vertical = nn.Linear(config.window, config.vertical, bias=False)
        width = config.horizontal * config.window + config.vertical * config.dim
        self.out = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, config.dim), nn.ReLU())

    def states(self, sequences: Tensor) -> Tensor:
        """See `Sequential.states`: the state at a position is computed from the window that ends there."""
        x = functional.pad(self.items(sequences), (0, 0, self.window - 1, 0)) * self.items.embedding_dim**0.5
        windows = x.unfold(1, self.window, 1)  # [B, L, d, window]
        flat = windows.flatten(0, 1)
        tall = [functional.relu(filters(flat)).amax(-1) for filters in self.horizontal]
        wide = self.vertical(flat).flatten(1)
        states: Tensor = self.out(torch.cat([*tall, wide], 1))
        return states.view(*sequences.shape, -1)
