"""FedAvg: devices train copies of the net on their own clicks, the server averages the changes of the weights.

McMahan et al., arXiv 1602.05629; the server's optimiser is the adaptive one of `training.fit` (Reddi et al., arXiv
2003.00295), which takes the mean change as a gradient. Only weights leave a device.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class FedAvgConfig:
    """Local training on a device."""

    learning_rate: float = 0.5  # of plain gradient steps
    steps: int = 2


class FedAvg(nn.Module):
    """One round as an objective: its gradient is the mean over devices of (server weights - device weights)."""

    def __init__(self, objective: nn.Module, config: FedAvgConfig) -> None:
        """Take the objective that turns one device's batch into its loss."""
        super().__init__()
        self.objective = objective
        self.config = config

    def forward(self, devices: Sequence[Sized]) -> Tensor:
        """Return the mean loss of the devices before they train; a batch per device, devices weighted by clicks."""
        server = {name: p for name, p in self.objective.named_parameters() if p.requires_grad}
        change = {name: torch.zeros_like(p) for name, p in server.items()}
        clicks = sum(len(batch) for batch in devices)
        total = next(iter(server.values())).new_zeros(())
        for batch in devices:
            local = {name: p.detach().clone().requires_grad_() for name, p in server.items()}
            for step in range(self.config.steps):
                with torch.enable_grad():
                    loss = functional_call(self.objective, local, (batch,))
                    gradients = torch.autograd.grad(loss, list(local.values()), allow_unused=True)
                if step == 0:
                    total += loss.detach() * len(batch) / clicks
                with torch.no_grad():
                    for weight, gradient in zip(local.values(), gradients, strict=True):
                        if gradient is not None:
                            weight.sub_(gradient, alpha=self.config.learning_rate)
            with torch.no_grad():
                for name, weight in local.items():
                    change[name] += (server[name] - weight) * (len(batch) / clicks)
        surrogate = torch.stack([(p * change[name]).sum() for name, p in server.items()]).sum()
        return total + surrogate - surrogate.detach()  # the loss, with the mean change as its gradient
