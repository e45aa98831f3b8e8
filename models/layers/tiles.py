"""Matrix products over tiles of 64 rows, so that the result of a row depends on that row only, to the last bit.

A matrix product over another number of rows may use another kernel and differ in the last bit. A batched product of
tiles computes all tiles, which have the same shape, with the same kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 64


def tiles(rows: Tensor) -> Tensor:
    """Return rows [n, d] as tiles [T, TILE, d], zero-padded."""
    return functional.pad(rows, (0, 0, 0, -len(rows) % TILE)).view(-(-len(rows) // TILE), TILE, rows.shape[1])


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return tiles x [T, TILE, inputs] times weight [outputs, inputs] plus bias: [T, TILE, outputs]."""
    if len(weight) == 1:  # a product with a vector depends on the number of tiles
        return (x * weight).sum(-1, keepdim=True) + bias
    return torch.baddbmm(bias, x, weight.t().expand(len(x), -1, -1))


class Linear(nn.Linear):
    """A linear layer that multiplies tiles one by one in inference mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., inputs] -> [..., outputs]."""
        if torch.is_inference_mode_enabled() and x.dim() == 3 and x.shape[1] == TILE:
            return linear(x, self.weight, self.bias)
        return super().forward(x)
