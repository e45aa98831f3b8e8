"""The slow part: DIN over the long, delayed history (eq. 1-2) and F2S, which adds the device's r2 (eq. 5-6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers.gru import RecurrentCell
from models.layers.hstu_block import HSTUBlock, HSTUConfig, apply_blocks
from models.layers.local_attention import attention_weights
from models.layers.mlp import Head, Mlp
from models.layers.tiles import Linear


class Din(nn.Module):
    """Eq. (1): r_t, the sum of the history with weights from an activation unit on (h, e, h * e), without softmax.

    HSTU blocks (`context`) are applied to the history first, so that each click depends on those before it; the paper
    has none, and by default there are none.
    """

    def __init__(self, dim: int, hidden: tuple[int, int], context: HSTUConfig) -> None:
        super().__init__()
        self.unit = Mlp(3 * dim, hidden)
        self.context = nn.ModuleList(HSTUBlock(context) for _ in range(context.layers))

    def forward(self, history: Tensor, mask: Tensor, e: Tensor) -> Tensor:
        """Return r_t [B, C, d] for history [B, L, d], mask [B, L] (true on items) and candidates e [B, C, d]."""
        history = self.in_context(history, mask)
        weights = attention_weights(self.unit, history, mask, e)  # [B, L, C]
        return torch.bmm(weights.transpose(1, 2), history)

    def in_context(self, history: Tensor, mask: Tensor) -> Tensor:
        """Return the history after the HSTU blocks, [B, L, d]; without blocks unchanged."""
        return apply_blocks(self.context, history * mask[..., None], mask) if len(self.context) else history


class Slow(nn.Module):
    """DIN's attention and the heads of DIN and F2S over one r_t. Scores are logits: the paper's y is their sigmoid."""

    def __init__(
        self, dim: int, attention: tuple[int, int], head: tuple[int, int], *, product: bool, context: HSTUConfig
    ) -> None:
        super().__init__()
        self.din = Din(dim, attention, context)
        self.head_din = Head(2, dim, head, product=product)
        self.w_s = Linear(2 * dim, dim)
        self.head_f2s = Head(3, dim, head, product=product)

    def score_din(self, r_t: Tensor, e: Tensor) -> Tensor:
        """Return the logits of DIN (eq. 2): r_t, e [B, C, d] -> [B, C]."""
        return self.head_din.score((r_t,), e, r_t)

    def reaction(self, gru_n: RecurrentCell, r2: Tensor, e: Tensor) -> Tensor:
        """Return r_n, the presumed reaction to each candidate (eq. 5): r2 [B, d], e [B, C, d] -> [B, C, d]."""
        return self.gated(gru_n.step(e, r2.unsqueeze(1).expand_as(e)), e)

    def gated(self, after: Tensor, e: Tensor) -> Tensor:
        """Return r_n from GRU_n's state after each candidate (eq. 5, second half): [B, C, d] each -> [B, C, d]."""
        return after * torch.sigmoid(self.w_s(torch.cat([after, e], -1)))

    def score_f2s(self, r_n: Tensor, r_t: Tensor, e: Tensor) -> Tensor:
        """Return the logits of F2S (eq. 6): [B, C, d] each -> [B, C]."""
        return self.head_f2s.score((r_n, r_t), e, r_t)
