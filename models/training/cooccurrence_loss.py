"""The co-occurrence loss, an auxiliary loss of the item table: items clicked after the same items get similar vectors.

Through the nets' chains of small layers almost no gradient reaches E for hundreds of steps. Here the mean of a user's
clicks predicts the next click by a dot product, as in CBOW and item2vec (Barkan & Koenigstein, arXiv 1603.04259); an
auxiliary loss next to DIN's own is DIEN's idea (Zhou et al., arXiv 1809.03672). It has no weights of its own and leaves
the paper's equations unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.training.minibatches import Batch

NEGATIVES = 256  # for the whole batch, up to twice as many are used; the cost is their number times the clicks'


def cooccurrence_loss(table: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of each click against negatives of the whole batch, given the earlier clicks.

    `table` [R, d] = E[batch.rows]. Clicks of users without earlier clicks are left out; 0 if no click remains.
    """
    before = torch.cat([batch.history, batch.clicks], 1)  # [B, L_S + L_F], 0 on padding
    known = before.ne(0).any(1)
    positions, weights = before[known], before[known].ne(0).to(table.dtype)
    if not len(positions):
        return table.new_zeros(())
    context = functional.embedding_bag(positions, table, mode="sum", per_sample_weights=weights)
    context = context / weights.sum(1, keepdim=True)  # [B, d]
    clicked = (context * table[batch.items[known, 0]]).sum(1, keepdim=True)
    negatives = batch.items[:, 1:].t().flatten()
    negatives = negatives[:: max(1, len(negatives) // NEGATIVES)]
    logits = (context @ table[negatives].t()).masked_fill(negatives == batch.items[known, :1], -torch.inf)
    return -torch.log_softmax(torch.cat([clicked, logits], 1), 1)[:, 0].mean()
