"""Held-out clicks: a loss per click, on the same lists for every net, and the paired comparison of two nets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.mc2sf.nets import HISTORIES, Logits, Nets
from models.mc2sf.stacking import Neighbours
from models.training.minibatches import Batch, ClickSource

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NEGATIVES = 9
_BATCH = 256
MIN_SAMPLES = 8  # with fewer samples no difference counts as significant


@dataclass(frozen=True)
class HeldOut:
    """Clicks that are not trained on [n], each with NEGATIVES negatives; column 0 of a batch's items is the click."""

    batches: tuple[Batch, ...]
    users: Ints  # [n]
    affinities: tuple[Tensor, ...]  # of the candidates by the item neighbours, [n, 1 + NEGATIVES] each

    @classmethod
    def draw(cls, source: ClickSource, clicks: Ints, seed: int, neighbours: Neighbours | None = None) -> HeldOut:
        """Return `clicks` with negatives drawn from `seed`; `neighbours` are those of the nets if they are stacked."""
        if not len(clicks):  # perhaps there is no item to draw either
            return cls((), clicks, ())
        items = source.candidates(clicks, np.random.default_rng([seed, 1]), n=NEGATIVES)
        order = source.by_history(clicks)
        chunks = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
        batches = tuple(source.batch_of(clicks[chunk], items[chunk]) for chunk in chunks)
        pairs = ((batch.rows[batch.clicks], batch.rows[batch.items]) for batch in batches)
        affinities = [neighbours.affinities(*pair) for pair in pairs] if neighbours else []
        users = source.states.user[clicks[order]]
        return cls(batches, users, tuple(torch.cat(kind) for kind in zip(*affinities, strict=True)))

    @torch.no_grad()
    def logits(self, nets: Nets) -> tuple[Tensor, Tensor]:
        """Return the logits of the four nets before stacking [4, n, 1 + NEGATIVES], and the candidates' floor."""
        logits, floors = [torch.empty(4, 0, 1 + NEGATIVES)], [torch.empty(0, 1 + NEGATIVES)]
        for batch in self.batches:
            inputs = batch.inputs(nets, nets.encoder.E[batch.rows])
            logits.append(torch.stack(nets(inputs)))
            floors.append(inputs.floor.expand(logits[-1].shape[1:]))
        return torch.cat(logits, 1), torch.cat(floors)

    def repeats(self) -> Tensor:
        """Return the candidates' repeats in the history that each net sees: [4, n, 1 + NEGATIVES]."""
        repeats = [batch.repeats.movedim(-1, 0)[list(HISTORIES)] for batch in self.batches]
        return torch.cat([torch.empty(4, 0, 1 + NEGATIVES), *repeats], 1)

    @torch.no_grad()
    def losses(self, nets: Nets, logits: Tensor | None = None) -> Floats:
        """Return the cross-entropy of each click in its list, the mean over the four nets as served: [n].

        `logits` are those of `nets`, if already computed.
        """
        scores = Logits(*(self.logits(nets)[0] if logits is None else logits))
        if self.affinities:
            scores = scores._replace(mc2sf=nets.stack(scores.mc2sf, scores.fast, scores.f2s, self.affinities))
        return cross_entropy(torch.stack(scores)).mean(0).double().numpy()


def cross_entropy(logits: Tensor) -> Tensor:
    """Return the cross-entropy of the first item of each list: [..., C] -> [...]."""
    return -torch.log_softmax(logits, -1)[..., 0]


def is_better(candidate: Floats, active: Floats) -> bool:
    """Return True if the candidate's mean loss on the same clicks is lower by more than a standard error.

    With fewer than MIN_SAMPLES clicks return False.
    """
    difference = candidate - active
    if len(difference) < MIN_SAMPLES:
        return False
    return bool(difference.mean() < -difference.std() / math.sqrt(len(difference)))
