"""The choice among snapshots of the nets that are taken while these are trained."""

from __future__ import annotations

import copy

from models.mc2sf.nets import Nets
from models.training.held_out import HeldOut, is_better
from models.training.popularity_floor import fit_gains


class SnapshotSelection:
    """The best nets of a retrain so far, by their loss on held-out clicks; at first the untrained ones."""

    def __init__(self, nets: Nets, held_out: HeldOut) -> None:
        self.best, self.kept = nets, 0  # the nets, and the step of their snapshot
        self.worse = 0  # snapshots after it; 0 if none was better than no training
        self._held_out = held_out
        self._losses = held_out.losses(nets)

    def consider(self, nets: Nets, step: int) -> None:
        """Keep a copy of `nets`, with fitted gains, if it is better."""
        copied = copy.deepcopy(nets).cpu().eval()
        losses = self._held_out.losses(copied, fit_gains(copied, self._held_out) if nets.config.floor else None)
        if is_better(losses, self._losses):
            self.best, self.kept, self.worse, self._losses = copied, step, 0, losses
        elif self.kept:
            self.worse += 1
