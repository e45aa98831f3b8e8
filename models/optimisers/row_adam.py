"""Adam for the item table: only the rows of a batch are updated and decayed, all others keep their exact bytes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.data.catalogue import ROW_PADDING


class RowAdam:
    """Lazy Adam over E [rows, d] with L2: each row gets plain Adam over the batches that contain it."""

    def __init__(
        self, E: Tensor, *, learning_rate: float, l2: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self._E = E.detach()
        self.rate = learning_rate
        self._l2, self._betas = l2, betas
        self._mean, self._square = torch.zeros_like(self._E), torch.zeros_like(self._E)
        self._steps = torch.zeros(len(E), 1, device=E.device)

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """Update E[rows] by their gradient [R, d]; `rows` are distinct. The padding row is never updated."""
        if len(rows) and rows[0] == ROW_PADDING:
            rows, gradient = rows[1:], gradient[1:]
        beta1, beta2 = self._betas
        weights, steps = self._E[rows], self._steps[rows] + 1
        gradient = gradient.add(weights, alpha=self._l2)
        mean = self._mean[rows].lerp_(gradient, 1 - beta1)
        square = self._square[rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square / (1 - torch.exp(steps * math.log(beta2)))).sqrt_().add_(1e-8)
        weights.addcdiv_(mean / (1 - torch.exp(steps * math.log(beta1))), root, value=-self.rate)
        for table, updated in ((self._E, weights), (self._mean, mean), (self._square, square), (self._steps, steps)):
            table[rows] = updated
