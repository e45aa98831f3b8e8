"""The nets of a release: encoder, slow part and fast part, each with its own version.

All equations take vectors, not rows of E, so that serving, retraining (which gathers the rows of a batch once) and
online learning use the same code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data.catalogue import FIRST_ROW, ROW_PADDING, ROW_UNKNOWN
from models.data.item_statistics import BUCKETS, FEATURES, MEAN
from models.layers.gru import Gru
from models.layers.hstu_block import HSTUBlock, HSTUConfig
from models.layers.min_gru import MinGruCell
from models.layers.mlp import PaddedVectors
from models.mc2sf import stacking
from models.mc2sf.fast import Fast
from models.mc2sf.slow import Slow

PARTS = ("encoder", "slow", "fast")
STANDALONE = ("din", "alone", "s2f")  # scores that may have nets of their own in a release: DIN, fast alone, S2F
DEVIATION = 0.3  # standard deviation of new rows of E: at 0.05 products of two rows are too small to learn from


@dataclass(frozen=True)
class NetConfig:
    """Sizes of the nets, fixed for a run: a release with other sizes is refused."""

    dim: int = 32
    history_long: int = 50  # L_S
    history_short: int = 10  # L_F
    threshold: int = 10  # largest number of exposures in a window
    attention: tuple[int, int] = (32, 16)  # hidden layers of DIN's activation unit
    gate: tuple[int, int] = (32, 16)
    head: tuple[int, int] = (64, 32)
    slow_product: bool = False  # inner product in the heads of the slow part: see `mlp.Head`
    fast_product: bool = True
    # not in the paper:
    history_layers: int = 0  # HSTU blocks over the long history before candidates attend to it
    min_gru: bool = False  # GRU_p and GRU_n are minGRUs
    floor: bool = False  # logits are popularity plus the score of a net: see `Encoder`
    symlog_priors: bool = False  # the fast part takes the symlog of r_t and r_n: as sums over 50 clicks they are large
    stacked: bool = False  # mc2sf is stacked, with item neighbours: see `stacking`

    @classmethod
    def paper(cls) -> NetConfig:
        """Return the nets as printed in the paper."""
        return cls(fast_product=False)


class Logits(NamedTuple):
    """Scores of the four nets, [B, C] each."""

    din: Tensor
    f2s: Tensor
    fast: Tensor
    mc2sf: Tensor


LONG, SHORT = 0, 1  # the delayed history of the cloud, and the newest clicks on the device
HISTORIES = (LONG, LONG, SHORT, SHORT)  # that each net sees, in the order of `Logits`


class Inputs(NamedTuple):
    """Inputs of all four nets for B clicks: histories as vectors, r2 [B, d], candidates e [B, C, d]."""

    history: PaddedVectors
    r2: Tensor
    clicks: PaddedVectors
    exposures: PaddedVectors
    e: Tensor
    floor: Tensor = torch.zeros(())  # [B, C], of the candidates
    repeats: Tensor = torch.zeros(2)  # [2, B, C], of the candidates in either history: see `models.data.repeats`


class Encoder(nn.Module):
    """The item table E [rows, d] (row 0 padding, row 1 unknown), vectors of item statistics, GRU_n over exposures.

    With a floor, every logit is a popularity score, one number per bucket of the item statistics, plus the candidate's
    repeats (see `models.data.repeats`) times a weight, plus the net's score times a gain. Untrained nets then rank by
    popularity, and a gain of 0 ignores a net that is no better.
    """

    popularity: Tensor
    repeats: Tensor  # weights of the repeats in the history that each net sees, in the order of `Logits`
    gains: Tensor  # in the same order

    def __init__(self, dim: int, rows: int, *, min_gru: bool = False, floor: bool = False) -> None:
        super().__init__()
        self._floor = floor
        if floor:
            self.register_buffer("popularity", torch.zeros(len(FEATURES), BUCKETS))
            self.register_buffer("repeats", torch.zeros(4))
            self.register_buffer("gains", torch.ones(4))
        self.E = nn.Parameter(torch.zeros(rows, dim))
        # vectors of item statistics, under the name that checkpoints have
        self.standing = nn.Parameter(torch.zeros(len(FEATURES), BUCKETS, dim))
        self.gru_n = MinGruCell(dim) if min_gru else Gru(dim)

    def with_statistics(self, e: Tensor, buckets: Tensor) -> Tensor:
        """Return candidates e [..., d] plus one vector per bucket of their item statistics [..., 3] (i8).

        A sum of rows and no matrix product, so that a row's result depends on that row only.
        """
        for feature, vectors in enumerate(self.standing):
            e = e + functional.embedding(buckets[..., feature], vectors)
        return e

    def floor(self, buckets: Tensor) -> Tensor:
        """Return the popularity score of candidates with item statistics [..., 3] (i8): [...]; 0 without a floor."""
        if not self._floor:
            return torch.zeros(())
        clicks, recent, age = self.popularity.unbind(0)
        return clicks[buckets[..., 0]] + recent[buckets[..., 1]] + age[buckets[..., 2]]

    def add_floor(self, floor: Tensor, repeats: Tensor, net: str, score: Tensor) -> Tensor:
        """Return the logits of a net, named as in `Logits`.

        They are made of the candidates' floor, their repeats in the history that the net sees, and the net's scores.
        """
        if not self._floor:
            return score
        number = Logits._fields.index(net)
        return floor + self.repeats[number] * repeats + self.gains[number] * score

    def r2(self, window: PaddedVectors) -> Tensor:
        """Return r2 of eq. (3), GRU_n over a window from a zero state: [B, L, d] -> [B, d]."""
        zero = window.x.new_zeros(window.x.shape[0], 1, window.x.shape[2])
        return self.gru_n.encode(window.x, window.mask, zero)[:, 0]


class Nets(nn.Module):
    """DIN, F2S, fast alone and S2F over one encoder."""

    def __init__(self, config: NetConfig, rows: int) -> None:
        """Build the nets with `rows` rows of E; weights are not initialised: see `initial` and `checkpoint.unpack`."""
        super().__init__()
        self.config = config
        context = HSTUConfig(config.dim, config.history_long, config.history_layers, dropout=0.0)
        self.encoder = Encoder(config.dim, rows, min_gru=config.min_gru, floor=config.floor)
        self.slow = Slow(config.dim, config.attention, config.head, product=config.slow_product, context=context)
        self.fast = Fast(
            config.dim,
            config.gate,
            config.head,
            product=config.fast_product,
            min_gru=config.min_gru,
            symlog_priors=config.symlog_priors,
        )
        if config.stacked:
            self.fast.register_buffer("stack", stacking.initial_weights())
            self.fast.neighbours = stacking.Neighbours(rows)

    @classmethod
    def initial(cls, config: NetConfig, rows: int, seed: int) -> Nets:
        """Return nets drawn from `seed`: uniform in +-1/sqrt(fan in), E normal with DEVIATION, padding zero."""
        nets = cls(config, rows)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in nets.named_parameters():
                if name in ("encoder.E", "encoder.standing"):  # E follows; item statistics start at zero
                    continue
                bound = 1 / math.sqrt(weight.shape[-1] if weight.dim() > 1 else config.dim)
                weight.uniform_(-bound, bound, generator=generator)
            nets.encoder.E.normal_(0, DEVIATION, generator=generator)
            nets.encoder.E[ROW_PADDING] = 0
            if config.floor:
                nets.encoder.popularity[FEATURES.index("clicks")] = log_share()
            for layer in nets.slow.din.context.modules():
                if isinstance(layer, HSTUBlock):
                    layer.reset()
        return nets

    def grown(self, rows: int, seed: int, deviation: float | Tensor = DEVIATION) -> Nets:
        """Return a copy with `rows` rows of E: old rows unchanged, new ones near the unknown row.

        `deviation` is the standard deviation of the difference, one number or one per new row. Raises ValueError if
        `rows` is smaller than the present number.
        """
        old = len(self.encoder.E)
        if rows < old or old < FIRST_ROW:
            raise ValueError(f"E of {old} rows can't become one of {rows}")
        nets = Nets(self.config, rows)
        state = self.state_dict()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.empty(rows - old, self.config.dim).normal_(0, 1, generator=generator)
        noise *= torch.as_tensor(deviation).expand(rows - old)[:, None]
        state["encoder.E"] = torch.cat([state["encoder.E"], state["encoder.E"][ROW_UNKNOWN] + noise])
        if self.config.stacked:
            nets.fast.neighbours.replace(self.fast.neighbours.resized(old, rows))
            state |= nets.fast.neighbours.state_dict(prefix="fast.neighbours.")
        nets.load_state_dict(state)
        return nets

    def forward(self, inputs: Inputs) -> Logits:
        """Return all four scores. r2 is data for the slow part, r_t and r_n are data for the fast part."""
        r_t, r_n = self.priors(inputs.history, inputs.r2, inputs.e)
        received = as_transmitted(r_t), as_transmitted(r_n)
        fast, s2f = self.fast.score_both(self.encoder.gru_n, inputs.clicks, inputs.exposures, inputs.e, *received)
        din, f2s = self.slow.score_din(r_t, inputs.e), self.slow.score_f2s(r_n, r_t, inputs.e)
        scores = Logits(din, f2s, fast, s2f)
        repeats = (inputs.repeats[history] for history in HISTORIES)
        return Logits(*map(self.encoder.add_floor, [inputs.floor] * 4, repeats, Logits._fields, scores))

    def stacked(self, logits: Logits, clicks: Tensor, items: Tensor) -> Logits:
        """Return all scores as served: mc2sf stacked. `clicks` [B, L] and `items` [B, C] are rows of E."""
        if not self.config.stacked:
            return logits
        affinities = self.fast.neighbours.affinities(clicks, items)
        return logits._replace(mc2sf=self.stack(logits.mc2sf, logits.fast, logits.f2s, affinities))

    def stack(self, s2f: Tensor, fast: Tensor, f2s: Tensor, affinities: Sequence[Tensor]) -> Tensor:
        """Return the scores of mc2sf [B, C] from those of three nets and the affinities, [B, C] each."""
        return stacking.weighted(self.fast.stack, (s2f, fast, f2s, *affinities))

    def priors(self, history: PaddedVectors, r2: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return r_t of eq. (1) and r_n of eq. (5): [B, C, d] each."""
        r_t = self.slow.din(history.x, history.mask, e)
        return r_t, self.slow.reaction(self.encoder.gru_n, r2.detach(), e)


def log_share() -> Tensor:
    """Return log(1 + count relative to the mean item's) of each bucket of a share, [BUCKETS]; 0 for bucket 0."""
    values = torch.log1p(2 ** ((torch.arange(BUCKETS) - MEAN) / 2))
    values[0] = 0
    return values


def as_transmitted(prior: Tensor) -> Tensor:
    """Return a prior rounded to 16 bits, as it is sent to the device, without gradient."""
    return prior.detach().half().to(prior.dtype)
