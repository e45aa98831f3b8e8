"""The fast part: two GRUs over the short histories, from zero (eq. 3-4) or from the cloud's priors (eq. 7-8)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.layers.gru import Gru, RecurrentCell
from models.layers.min_gru import MinGruCell
from models.layers.mlp import Head, Mlp, PaddedVectors, symlog
from models.layers.tiles import Linear
from models.mc2sf.stacking import Neighbours


class GruStates(NamedTuple):
    """Last states of GRU_p over the clicks and of GRU_n over the exposures, [B, C, d] each."""

    clicks: Tensor
    exposures: Tensor


class Fast(nn.Module):
    """GRU_p, the gates, W0..W2 and the heads of fast alone and S2F. All scores are logits."""

    def __init__(
        self,
        dim: int,
        gate: tuple[int, int],
        head: tuple[int, int],
        *,
        product: bool,
        min_gru: bool = False,
        symlog_priors: bool = False,
    ) -> None:
        super().__init__()
        self.stack: Tensor  # weights of the stack [stacking.FEATURES]; stacked nets only
        self.neighbours: Neighbours  # of all items; stacked nets only
        self._symlog_priors = symlog_priors
        self.gru_p = MinGruCell(dim) if min_gru else Gru(dim)
        self.gate_p = Mlp(2 * dim, gate)
        self.gate_n = Mlp(2 * dim, gate)
        self.head_fast = Head(2, dim, head, product=product)
        self.w0 = Linear(2 * dim, dim)
        self.w1 = Linear(dim, dim)
        self.w2 = Linear(dim, dim)
        self.head_s2f = Head(3, dim, head, product=product)

    def fuse(self, of_clicks: Tensor, of_exposures: Tensor, e: Tensor) -> Tensor:
        """Return both states weighted by a softmax of their gates (eq. 3, second line): [B, C, d] each -> [B, C, d]."""
        w = self.weights(of_clicks, of_exposures, e).unsqueeze(-1)
        return w[0] * of_clicks + w[1] * of_exposures

    def weights(self, of_clicks: Tensor, of_exposures: Tensor, e: Tensor) -> Tensor:
        """Return the softmax of both gates, w1 and w2 of eq. (3): [B, C, d] each -> [2, B, C]."""
        gates = torch.stack([self.gate_p(torch.cat([of_clicks, e], -1)), self.gate_n(torch.cat([of_exposures, e], -1))])
        return torch.softmax(gates, 0)

    def initial_states(self, r_n: Tensor, r_t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the initial states z_p and z_n for each candidate (eq. 7, first half): [B, C, d] each."""
        alpha = self.alpha(r_n, r_t)
        r_f = alpha * r_n + (1 - alpha) * r_t
        return torch.relu(self.w1(r_f)), torch.relu(self.w2(r_f))

    def alpha(self, r_n: Tensor, r_t: Tensor) -> Tensor:
        """Return the share of r_n in the mixture of both priors (eq. 7), per dimension: [B, C, d]."""
        return torch.sigmoid(self.w0(torch.cat([r_n, r_t], -1)))

    def gru_states(
        self, gru_n: RecurrentCell, clicks: PaddedVectors, exposures: PaddedVectors, z_p: Tensor, z_n: Tensor
    ) -> GruStates:
        """Encode both histories from C initial states each: r1, r2 of eq. (3), or r_p, r~_n of eq. (7)."""
        return GruStates(self.gru_p.encode(*clicks, z_p), gru_n.encode(*exposures, z_n))

    def from_zero(self, gru_n: RecurrentCell, clicks: PaddedVectors, exposures: PaddedVectors) -> GruStates:
        """Return r1 and r2 (eq. 3, first line), [B, 1, d] each, the same for all candidates."""
        zero = clicks.x.new_zeros(len(clicks.x), 1, clicks.x.shape[2])
        return self.gru_states(gru_n, clicks, exposures, zero, zero)

    def score_fast(self, states: GruStates, e: Tensor) -> Tensor:
        """Return the logits of fast alone (eq. 3-4): e [B, C, d] -> [B, C]."""
        r = self.fuse(states.clicks.expand_as(e), states.exposures.expand_as(e), e)
        return self.head_fast.score((r,), e, r)

    def score_s2f(
        self, gru_n: RecurrentCell, clicks: PaddedVectors, exposures: PaddedVectors, e: Tensor, r_t: Tensor, r_n: Tensor
    ) -> Tensor:
        """Return the logits of S2F (eq. 7-8): [B, C]. r_t and r_n [B, C, d] are data: gradients are cut here."""
        r_t, r_n = self.transform_prior(r_t), self.transform_prior(r_n)
        states = self.gru_states(gru_n, clicks, exposures, *self.initial_states(r_n, r_t))
        return self.score_from(states, e, r_t)

    def score_from(self, states: GruStates, e: Tensor, r_t: Tensor) -> Tensor:
        """Return the logits of S2F from the GRU states that started from the priors: [B, C, d] each -> [B, C]."""
        r = self.fuse(*states, e)
        return self.head_s2f.score((r, r_t), e, r)

    def score_both(
        self, gru_n: RecurrentCell, clicks: PaddedVectors, exposures: PaddedVectors, e: Tensor, r_t: Tensor, r_n: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of fast alone and of S2F, [B, C] each: each history is encoded once for both."""
        r_t, r_n = self.transform_prior(r_t), self.transform_prior(r_n)
        initial = (torch.cat([torch.zeros_like(z[:, :1]), z], 1) for z in self.initial_states(r_n, r_t))
        of_clicks, of_exposures = self.gru_states(gru_n, clicks, exposures, *initial)
        fast = self.score_fast(GruStates(of_clicks[:, :1], of_exposures[:, :1]), e)
        return fast, self.score_from(GruStates(of_clicks[:, 1:], of_exposures[:, 1:]), e, r_t)

    def transform_prior(self, prior: Tensor) -> Tensor:
        """Return a prior as the input of the fast part, without gradient: with `symlog_priors` its symlog."""
        return symlog(prior.detach()) if self._symlog_priors else prior.detach()
