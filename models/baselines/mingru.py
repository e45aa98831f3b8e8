"""minGRU: a recurrence whose gates look at the input only (Feng et al., arXiv 2410.01201).

A device needs one small matrix product a click, and training runs over all positions in parallel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.baselines.sequential import Reads, Sequential
from models.data.catalogue import ROW_PADDING
from models.data.queries import recent


@dataclass(frozen=True)
class MinGRUConfig:
    """Sizes of the net."""

    dim: int = 32
    hidden: int = 64
    layers: int = 2
    length: int = 50
    dropout: float = 0.2


def scan(keep: Tensor, new: Tensor) -> Tensor:
    """h_t = keep_t h_{t-1} + new_t from h = 0, for all t: [B, L, h] in ceil(log2 L) parallel steps."""
    step = 1
    while step < keep.shape[1]:
        earlier_new = functional.pad(new[:, :-step], (0, 0, step, 0))
        earlier_keep = functional.pad(keep[:, :-step], (0, 0, step, 0), value=1.0)
        keep, new = keep * earlier_keep, new + keep * earlier_new
        step *= 2
    return new


class MinGruCell(nn.Module):
    """The recurrence alone, with inputs and state [d]: what `gru.Gru` is, for nets that have this one in its place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w_ih = nn.Parameter(torch.empty(2 * dim, dim))
        self.b_ih = nn.Parameter(torch.empty(2 * dim))

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """One step: input [..., d], state [..., d] -> state [..., d]."""
        z, new = self._gates(x)
        return h + z * (new - h)

    def fold(self, x: Tensor, mask: Tensor, h: Tensor) -> Tensor:
        """The last state from each of C initial states of B histories.

        `x` [B, L, d] is left-padded, `mask` [B, L] is true on items, `h` [B, C, d] -> [B, C, d]. The gates don't look
        at the state: what is left of an initial one is the same share for all C.
        """
        z, new = self._gates(x)
        z = z * mask[..., None]
        return (1 - z).prod(1, keepdim=True) * h + scan(1 - z, z * new)[:, -1:]

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, new = functional.linear(x, self.w_ih, self.b_ih).chunk(2, -1)
        return torch.sigmoid(gate), torch.tanh(new)


class Layer(nn.Module):
    """One recurrence with its residual."""

    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.gate_and_new = nn.Linear(config.dim, 2 * config.hidden)
        self.out = nn.Linear(config.hidden, config.dim)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Inputs x [B, L, d], real bool [B, L, 1] -> [B, L, d]. Padding leaves the state as it is."""
        gate, new = self.gate_and_new(self.norm(x)).chunk(2, dim=-1)
        z = torch.sigmoid(gate) * real
        return x + self.drop(self.out(scan(1 - z, z * torch.tanh(new))))  # type: ignore[no-any-return]


class MinGRU(Sequential):
    """Layers of minGRU over the clicks."""

    def __init__(self, config: MinGRUConfig, rows: int, reads: Reads = recent) -> None:
        super().__init__(rows, config.dim, config.length, reads)
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def states(self, sequences: Tensor) -> Tensor:
        """See `Sequential.states`."""
        real = (sequences != ROW_PADDING)[..., None]
        x = self.drop(self.items(sequences) * self.items.embedding_dim**0.5)
        for layer in self.layers:
            x = layer(x, real)
        return self.norm(x)  # type: ignore[no-any-return]
