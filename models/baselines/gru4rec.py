"""GRU4Rec: a recurrent net over the clicks (Hidasi et al., arXiv 1511.06939)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.baselines.sequential import Sequential
from models.data.catalogue import ROW_PADDING
from models.data.queries import recent


@dataclass(frozen=True)
class GRU4RecConfig:
    """Sizes of GRU4Rec."""

    dim: int = 32
    hidden: int = 32
    length: int = 50
    dropout: float = 0.2


def left_aligned(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """Return `sequences` [B, L] with the padding moved to the right, and the shift of each [B]."""
    padding = (sequences == ROW_PADDING).long().cumprod(1).sum(1)
    positions = torch.arange(sequences.shape[1], device=sequences.device) + padding[:, None]
    return sequences.gather(1, positions.clamp(max=sequences.shape[1] - 1)), padding


def right_aligned(states: Tensor, padding: Tensor) -> Tensor:
    """Return `states` [B, L, d] shifted right by `padding` [B] positions, zero-filled."""
    positions = torch.arange(states.shape[1], device=states.device) - padding[:, None]
    moved = states.gather(1, positions.clamp(min=0)[..., None].expand_as(states))
    return moved * (positions >= 0)[..., None]


class GRU4Rec(Sequential):
    """One GRU layer and a linear map to the dimension of the items."""

    def __init__(self, config: GRU4RecConfig, rows: int) -> None:
        super().__init__(rows, config.dim, config.length, recent)
        self.drop = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.dim, config.hidden, batch_first=True)
        self.out = nn.Linear(config.hidden, config.dim)

    def states(self, sequences: Tensor) -> Tensor:
        """See `Sequential.states`. Padding is moved behind the sequence, so that it never enters a state."""
        shifted, padding = left_aligned(sequences)
        x = self.drop(self.items(shifted) * self.items.embedding_dim**0.5)
        return right_aligned(self.out(self.gru(x)[0]), padding)
