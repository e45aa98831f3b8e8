"""Adam without torch.optim, whose first optimiser loads torch's compiler: two seconds of CPU in every process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Adam's state of one weight, under the names of torch.optim."""

    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    @classmethod
    def zero(cls, weight: Tensor) -> Moments:
        """Return the state of `weight` before its first step."""
        return cls(torch.zeros((), device=weight.device), torch.zeros_like(weight), torch.zeros_like(weight))


class Adam:
    """Adam on `weights`. The gradient of l2 / 2 |w|^2 is added to that of the loss."""

    moments: list[Moments]

    def __init__(
        self, weights: Iterable[Tensor], *, learning_rate: float, l2: float, betas: tuple[float, float]
    ) -> None:
        self.rate = learning_rate
        self._weights = list(weights)
        self._l2, self._betas = l2, betas
        self.restart()

    def restart(self) -> None:
        """Reset the moments and the step count."""
        self.moments = [Moments.zero(weight) for weight in self._weights]

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights that have a gradient, and clear the gradients."""
        pairs = [pair for pair in zip(self._weights, self.moments, strict=True) if pair[0].grad is not None]
        steps = [moments.step for _, moments in pairs]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            [weight for weight, _ in pairs],
            [weight.grad for weight, _ in pairs if weight.grad is not None],
            [moments.exp_avg for _, moments in pairs],
            [moments.exp_avg_sq for _, moments in pairs],
            [],
            steps,
            lr=self.rate,
            beta1=self._betas[0],
            beta2=self._betas[1],
            weight_decay=self._l2,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
        for weight, _ in pairs:
            weight.grad = None
