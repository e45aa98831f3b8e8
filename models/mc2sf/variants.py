"""The variants of a release: DIN, F2S, fast alone and MC²-SF, each scoring queries with only the parts it needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data.catalogue import ROW_PADDING
from models.data.queries import Queries
from models.layers.gru import RecurrentCell
from models.layers.mlp import PaddedVectors
from models.mc2sf.fast import Fast
from models.mc2sf.nets import Nets, as_transmitted


class Variant(nn.Module):
    """One way of scoring with `Nets`; several variants may share the same nets."""

    served_as = ""  # field of its scores in a `SlowAnswer` or `FastAnswer`

    def __init__(self, nets: Nets) -> None:
        super().__init__()
        self.nets = nets

    @property
    def item_tables(self) -> tuple[Tensor, ...]:
        """The tables [rows, d] with one vector per item."""
        return (self.nets.encoder.E,)

    def vectors(self, rows: Tensor) -> Tensor:
        """Return the vectors of rows [...]: [..., d]."""
        return functional.embedding(rows, self.nets.encoder.E, padding_idx=ROW_PADDING)

    def sequence(self, rows: Tensor, length: int) -> PaddedVectors:
        """Return the newest `length` of rows [B, L] as vectors and mask."""
        newest = rows[:, -length:]
        return PaddedVectors(self.vectors(newest), newest != ROW_PADDING)

    def r_t(self, queries: Queries, items: Tensor) -> Tensor:
        """Return r_t (eq. 1) of items [V, C]: [V, C, d]. Each distinct pair of history and item is computed once."""
        history = self.sequence(queries.history, self.nets.config.history_long)
        rows = len(self.nets.encoder.E)
        pairs, inverse = torch.unique(queries.history_index[:, None] * rows + items, return_inverse=True)  # sorted
        history_index, item = pairs // rows, pairs % rows
        counts = torch.bincount(history_index, minlength=len(queries.history))
        column = torch.arange(len(pairs), device=items.device) - (counts.cumsum(0) - counts)[history_index]
        width = int(counts.max())
        candidates = items.new_zeros(len(counts), width)  # [U, width], padded with ROW_PADDING
        candidates[history_index, column] = item
        r_t = self.nets.slow.din(history.x, history.mask, self.vectors(candidates)).flatten(0, 1)  # [U width, d]
        return functional.embedding((history_index * width + column)[inverse], r_t)

    def r_n(self, queries: Queries, e: Tensor) -> Tensor:
        """Return r_n (eq. 5) of candidates e [V, C, d], with r2 as data: [V, C, d]."""
        with torch.no_grad():
            r2 = self.nets.encoder.r2(self.sequence(queries.window, queries.window.shape[1]))
        return self.nets.slow.reaction(self.nets.encoder.gru_n, r2, e)

    def short_histories(self, queries: Queries) -> tuple[RecurrentCell, PaddedVectors, PaddedVectors]:
        """Return the arguments of the fast part: GRU_n, and the short histories of clicks and of exposures."""
        length = self.nets.config.history_short
        clicks, exposures = self.sequence(queries.clicks, length), self.sequence(queries.exposures, length)
        return self.nets.encoder.gru_n, clicks, exposures


class DIN(Variant):
    """The slow part without r2 (eq. 1-2)."""

    served_as = "din"

    def forward(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]."""
        e = self.vectors(items)
        return self.nets.slow.score_din(self.r_t(queries, items), e)


class F2S(Variant):
    """The slow part with the device's r2 (eq. 5-6)."""

    served_as = "f2s"

    def forward(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]."""
        e = self.vectors(items)
        return self.nets.slow.score_f2s(self.r_n(queries, e), self.r_t(queries, items), e)


class FastAlone(Variant):
    """The fast part without priors (eq. 3-4)."""

    served_as = "fast"

    def forward(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]."""
        e = self.vectors(items)
        return self.nets.fast.score_fast(self.nets.fast.from_zero(*self.short_histories(queries)), e)


class MC2SF(Variant):
    """The fast part with the cloud's priors, which use the device's r2 (eq. 5-8)."""

    served_as = "mc2sf"

    def __init__(self, nets: Nets, cloud: F2S | None = None) -> None:
        """Take the priors from `cloud`, which is frozen; by default from the slow part of the same `nets`."""
        super().__init__(nets)
        self.cloud = None if cloud is None else cloud.requires_grad_(requires_grad=False)

    def forward(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]. r_t and r_n are data: no gradient reaches the slow part."""
        slow = self.cloud or self
        with torch.no_grad():
            r_t = as_transmitted(slow.r_t(queries, items))
            r_n = as_transmitted(slow.r_n(queries, slow.vectors(items)))
        e = self.vectors(items)
        return self.nets.fast.score_s2f(*self.short_histories(queries), e, r_t, r_n)


@torch.no_grad()
def start_from_fast_alone(fast: Fast, share: float = 0.1) -> None:
    """Initialise S2F from fast alone: eq. (8) starts from the weights of eq. (4).

    The layers that read the priors keep a `share` of their weights: at zero the ReLU of eq. (7) would get no gradient.
    """
    for layer in (fast.w1, fast.w2):
        layer.weight.mul_(share)
        layer.bias.zero_()
    alone, s2f = fast.head_fast, fast.head_s2f
    w_r, w_e = alone.first.weight.chunk(2, 1)
    _, w_prior, _ = s2f.first.weight.chunk(3, 1)
    s2f.first.weight.copy_(torch.cat([w_r, share * w_prior, w_e], 1))
    s2f.first.bias.copy_(alone.first.bias)
    s2f.second.load_state_dict(alone.second.state_dict())
    s2f.last.load_state_dict(alone.last.state_dict())
