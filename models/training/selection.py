"""Selection of the weights of a retrain among its snapshots, by the loss on held-out clicks."""

from __future__ import annotations

import copy

from torch import Tensor

from models.mc2sf.nets import Nets
from models.training.held_out import HeldOut, is_better
from models.training.popularity_floor import fit_gains


class Selection:
    """The best nets of a retrain so far, by their loss on held-out clicks; at first the untrained ones."""

    def __init__(self, nets: Nets, held_out: HeldOut) -> None:
        self.best, self.kept = nets, 0  # the nets, and the step of their snapshot
        self._held_out = held_out
        self._losses = held_out.losses(nets)

    def consider(self, nets: Nets, step: int) -> None:
        """Keep a copy of `nets`, with fitted gains, if it is better."""
        copied = copy.deepcopy(nets).cpu().eval()
        self._keep(copied, step, fit_gains(copied, self._held_out) if nets.config.floor else None)

    def _keep(self, nets: Nets, step: int, logits: Tensor | None = None) -> None:
        losses = self._held_out.losses(nets, logits)
        if is_better(losses, self._losses):
            self.best, self.kept, self._losses = nets, step, losses
