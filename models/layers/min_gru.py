"""The minGRU cell: a recurrence whose gates depend on the input only (Feng et al., arXiv 2410.01201)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.tiles import linear, tiles


def scan(keep: Tensor, new: Tensor) -> Tensor:
    """Return h_t = keep_t h_{t-1} + new_t from h = 0, for all t: [B, L, h], in ceil(log2 L) parallel steps."""
    step = 1
    while step < keep.shape[1]:
        earlier_new = functional.pad(new[:, :-step], (0, 0, step, 0))
        earlier_keep = functional.pad(keep[:, :-step], (0, 0, step, 0), value=1.0)
        keep, new = keep * earlier_keep, new + keep * earlier_new
        step *= 2
    return new


class MinGruCell(nn.Module):
    """The recurrence without norm and residual, inputs and state [d]: a drop-in replacement for `gru.Gru`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w_ih = nn.Parameter(torch.empty(2 * dim, dim))
        self.b_ih = nn.Parameter(torch.empty(2 * dim))

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """Apply one step: input [..., d], state [..., d] -> state [..., d]."""
        z, new = self._gates(x)
        return h + z * (new - h)

    def encode(self, x: Tensor, mask: Tensor, h: Tensor) -> Tensor:
        """Return the state after each of B histories, from each of C initial states `h` [B, C, d]: [B, C, d].

        `x` [B, L, d] is left-padded, `mask` [B, L] is true on items. The gates do not depend on the state, so the
        share of the initial state that remains is the same for all C.
        """
        z, new = self._gates(x)
        z = z * mask[..., None]
        return (1 - z).prod(1, keepdim=True) * h + scan(1 - z, z * new)[:, -1:]

    def step_tiles(self, x: Tensor, h: Tensor, state_index: Tensor) -> Tensor:
        """See `gru.Gru.step_tiles`."""
        z, new = self._gates_of_tiles(x)
        return torch.lerp(h[state_index].view_as(x), new, z)

    def encode_tiles(self, x: Tensor, mask: Tensor, h: Tensor, history_index: Tensor) -> Tensor:
        """See `gru.Gru.encode_tiles`."""
        z, new = (
            each.flatten(0, 1)[: mask.numel()].view_as(x) for each in self._gates_of_tiles(tiles(x.flatten(0, 1)))
        )
        z = z * mask[..., None]
        keep, added = x.new_ones(x.shape[1:]), x.new_zeros(x.shape[1:])
        for z_t, new_t in zip(z, new, strict=True):
            keep, added = keep * (1 - z_t), torch.lerp(added, new_t, z_t)
        return h * keep[history_index].view_as(h) + added[history_index].view_as(h)

    def _gates_of_tiles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, new = linear(x, self.w_ih, self.b_ih).chunk(2, -1)
        return torch.sigmoid(gate.contiguous()), torch.tanh(new.contiguous())

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the update gate and the new state for inputs [..., d]."""
        gate, new = functional.linear(x, self.w_ih, self.b_ih).chunk(2, -1)
        return torch.sigmoid(gate), torch.tanh(new)
