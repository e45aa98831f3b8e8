"""The fast part: two GRUs over the short histories, alone (eq. 3-4) and started from the cloud's priors (eq. 7-8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.gru import Gru
from models.layers import Mlp


class Fast(nn.Module):
    """GRU_p, the gates, W0..W2 and the heads of both forms. All scores are logits."""

    def __init__(self, dim: int, gate: tuple[int, int], head: tuple[int, int]) -> None:
        super().__init__()
        self.gru_p = Gru(dim)
        self.gate_p = Mlp(2 * dim, gate)
        self.gate_n = Mlp(2 * dim, gate)
        self.head_fast = Mlp(2 * dim, head)
        self.w0 = nn.Linear(2 * dim, dim)
        self.w1 = nn.Linear(dim, dim)
        self.w2 = nn.Linear(dim, dim)
        self.head_s2f = Mlp(3 * dim, head)

    def fuse(self, of_clicks: Tensor, of_exposures: Tensor, e: Tensor) -> Tensor:
        """Eq. (3), second line: both memories weighted by a softmax of their gates: [B, C, d] each -> [B, C, d]."""
        gates = torch.stack([self.gate_p(torch.cat([of_clicks, e], -1)), self.gate_n(torch.cat([of_exposures, e], -1))])
        w = torch.softmax(gates, 0).unsqueeze(-1)  # [2, B, C, 1]
        return w[0] * of_clicks + w[1] * of_exposures

    def starts(self, r_n: Tensor, r_t: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. (7), first half: the initial states z_p and z_n, one a candidate: [B, C, d] each."""
        alpha = torch.sigmoid(self.w0(torch.cat([r_n, r_t], -1)))
        r_f = alpha * r_n + (1 - alpha) * r_t
        return torch.relu(self.w1(r_f)), torch.relu(self.w2(r_f))

    def forward(
        self,
        gru_n: Gru,
        clicks: tuple[Tensor, Tensor],
        exposures: tuple[Tensor, Tensor],
        e: Tensor,
        r_t: Tensor,
        r_n: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits of eq. (4) and eq. (8), [B, C] each.

        `clicks` and `exposures` are vectors [B, L_F, d], left-padded, with masks [B, L_F]; `e`, `r_t`, `r_n` are
        [B, C, d]. r_t and r_n are received data: their gradients are cut here.
        """
        r_t, r_n = r_t.detach(), r_n.detach()
        z_p, z_n = self.starts(r_n, r_t)
        zero = torch.zeros_like(z_p[:, :1])
        # the state from zero (eq. 3) and those from the priors (eq. 7) go through one fold
        of_clicks = self.gru_p.fold(*clicks, torch.cat([zero, z_p], 1))
        of_exposures = gru_n.fold(*exposures, torch.cat([zero, z_n], 1))
        alone = self.fuse(of_clicks[:, :1].expand_as(e), of_exposures[:, :1].expand_as(e), e)
        helped = self.fuse(of_clicks[:, 1:], of_exposures[:, 1:], e)
        return self.head_fast(torch.cat([alone, e], -1)), self.head_s2f(torch.cat([helped, r_t, e], -1))
