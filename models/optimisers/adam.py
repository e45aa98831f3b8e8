"""Adam without torch.optim: its first optimiser loads torch's compiler, two seconds of CPU in every process."""

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
    def of(cls, weight: Tensor) -> Moments:
        """Return the state of `weight` before its first step."""
        return cls(torch.zeros((), device=weight.device), torch.zeros_like(weight), torch.zeros_like(weight))


class Adam:
    """Adam on `weights`, with the gradient of l2 / 2 |w|^2 added to that of the loss."""

    moments: list[Moments]

    def __init__(
        self, weights: Iterable[Tensor], *, learning_rate: float, l2: float, betas: tuple[float, float]
    ) -> None:
        self.rate = learning_rate
        self._weights = list(weights)
        self._l2, self._betas = l2, betas
        self.restart()

    def restart(self) -> None:
        """Forget all earlier steps."""
        self.moments = [Moments.of(weight) for weight in self._weights]

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights that have a gradient, and take the gradients away."""
        triples = zip(self._weights, self.moments, strict=True)
        some = [(weight, weight.grad, of) for weight, of in triples if weight.grad is not None]
        steps = [of.step for _, _, of in some]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            [weight for weight, _, _ in some],
            [gradient for _, gradient, _ in some],
            [of.exp_avg for _, _, of in some],
            [of.exp_avg_sq for _, _, of in some],
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
        for weight, _, _ in some:
            weight.grad = None
