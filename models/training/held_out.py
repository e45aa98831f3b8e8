"""Held-out clicks: a loss per click, on the same lists for every net, and the paired comparison of two nets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.catalogue import ROW_PADDING, ROW_UNKNOWN
from models.mc2sf.nets import Logits, Nets
from models.training.minibatches import ClickSource

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NEGATIVES = 9
_BATCH = 256
ENOUGH = 8  # clicks below which no difference is believed


@dataclass(frozen=True)
class HeldOut:
    """Clicks that are not trained on, each with NEGATIVES negatives: column 0 of `items` [n, 1 + NEGATIVES]."""

    source: ClickSource
    clicks: Ints
    items: Ints

    @classmethod
    def draw(cls, source: ClickSource, clicks: Ints, seed: int) -> HeldOut:
        """Return `clicks` with negatives drawn from `seed`."""
        if not len(clicks):  # perhaps there is no item to draw either
            return cls(source, clicks, np.empty((0, 1 + NEGATIVES), np.int64))
        items = source.candidates(clicks, np.random.default_rng([seed, 1]), n=NEGATIVES)
        order = source.by_history(clicks)
        return cls(source, clicks[order], items[order])

    @torch.no_grad()
    def logits(self, nets: Nets) -> tuple[Tensor, Tensor]:
        """Return the logits of the four nets [4, n, 1 + NEGATIVES], none stacked, and the candidates' floor.

        Rows beyond those of `nets` are replaced by the unknown row.
        """
        found, floors = [torch.empty(4, 0, 1 + NEGATIVES)], [torch.empty(0, 1 + NEGATIVES)]
        for start in range(0, len(self.clicks), _BATCH):
            some = slice(start, start + _BATCH)
            batch = self.source.listed(self.clicks[some], self.items[some])
            inputs = batch.inputs(nets, nets.encoder.E[_known(batch.rows, nets)])
            logits = torch.stack(nets(inputs))
            found.append(logits)
            floors.append(inputs.floor.expand(logits.shape[1:]))
        return torch.cat(found, 1), torch.cat(floors)

    @torch.no_grad()
    def losses(self, nets: Nets, logits: Tensor | None = None) -> Floats:
        """Return the cross-entropy of each click in its list, the mean over the four nets as served: [n].

        `logits` are those of `nets`, if they are known.
        """
        scores = Logits(*(self.logits(nets)[0] if logits is None else logits))
        if nets.config.stacked and len(self.clicks):
            states, short = self.source.states, self.source.states.spec.history_short
            clicks = states.clicks.gather(self.source.click_rows, self.clicks, short, ROW_PADDING)
            known = (_known(torch.from_numpy(rows), nets) for rows in (clicks, self.items))
            scores = nets.stacked(scores, *known)
        return cross_entropy(torch.stack(scores)).mean(0).double().numpy()


def _known(rows: Tensor, nets: Nets) -> Tensor:
    """Return `rows`, with the unknown row instead of those that `nets` lack."""
    return torch.where(rows < len(nets.encoder.E), rows, ROW_UNKNOWN)


def cross_entropy(logits: Tensor) -> Tensor:
    """Return the cross-entropy of the first item of each list: [..., C] -> [...]."""
    return -torch.log_softmax(logits, -1)[..., 0]


def is_better(candidate: Floats, active: Floats) -> bool:
    """Return True if the mean loss is lower by more than its standard error over the same clicks; False for a few."""
    difference = candidate - active
    if len(difference) < ENOUGH:
        return False
    return bool(difference.mean() < -difference.std() / math.sqrt(len(difference)))
