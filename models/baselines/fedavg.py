"""Federated averaging: devices train copies on their own clicks, the server moves by the mean of what changed.

McMahan et al., arXiv 1602.05629; the server's own step is an adaptive one (Reddi et al., arXiv 2003.00295), that of
`fitting.fit`, for which the mean change is a gradient. Nothing but weights leaves a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class FedAvgConfig:
    """What a device does with the weights it gets."""

    learning_rate: float = 0.5  # of plain gradient steps
    steps: int = 2


class FedAvg(nn.Module):
    """A round as one objective: its gradient is the mean over devices of (the server's weights - the device's)."""

    def __init__(self, objective: nn.Module, config: FedAvgConfig) -> None:
        """`objective` turns one device's batch into its loss."""
        super().__init__()
        self.objective = objective
        self.config = config

    def forward(self, devices: Sequence[Any]) -> Tensor:
        """The mean loss of the devices before they train, one batch each, every device weighted by its clicks."""
        server = {name: p for name, p in self.objective.named_parameters() if p.requires_grad}
        changed = {name: torch.zeros_like(p) for name, p in server.items()}
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
                    changed[name] += (server[name] - weight) * (len(batch) / clicks)
        moved = torch.stack([(p * changed[name]).sum() for name, p in server.items()]).sum()
        return total + moved - moved.detach()
