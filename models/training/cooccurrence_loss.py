"""An auxiliary loss of the item table alone: items that follow the same clicks come to lie close together.

The nets learn E through long chains of small layers, and for hundreds of steps next to nothing arrives there. Here the
mean of a user's clicks says by a plain dot product which item is clicked next, as in CBOW and item2vec (Barkan &
Koenigstein, arXiv 1603.04259); an auxiliary loss beside DIN's own is DIEN's idea (Zhou et al., arXiv 1809.03672). It
has no weights of its own, and the paper's equations stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.training.minibatches import Batch


def cooccurrence_loss(table: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of each click among itself and the negatives of the whole batch, given its user's clicks so far.

    `table` [R, d] = E[batch.rows]. Clicks of users without any before are left out; 0 where no other is there.
    """
    before = torch.cat([batch.history, batch.clicks], 1)  # [B, L_S + L_F], 0 on padding
    known = before.ne(0).any(1)
    places, weights = before[known], before[known].ne(0).to(table.dtype)
    if not len(places):
        return table.new_zeros(())
    context = functional.embedding_bag(places, table, mode="sum", per_sample_weights=weights)
    context = context / weights.sum(1, keepdim=True)  # [B, d]
    clicked = (context * table[batch.items[known, 0]]).sum(1, keepdim=True)
    drawn = batch.items[:, 1:].flatten()
    others = (context @ table[drawn].t()).masked_fill(drawn == batch.items[known, :1], -torch.inf)
    return -torch.log_softmax(torch.cat([clicked, others], 1), 1)[:, 0].mean()
