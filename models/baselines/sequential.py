"""Sequential nets: a causal encoder of a sequence to one user vector, and inner products with the items as scores.

Because the candidate enters only at the end, all positions of a sequence are trained at once and negatives are shared
by the batch. `SASRec`, `Caser`, `GRU4Rec`, `MinGRU`, `HSTU` and `Item2Vec` are such nets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.data.catalogue import ROW_PADDING
from models.data.queries import Queries

SequenceReader = Callable[[Queries], tuple[Tensor, Tensor]]


class Sequential(nn.Module, ABC):
    """A state after each item of a sequence, and its inner products with candidates."""

    def __init__(self, rows: int, dim: int, length: int, reads: SequenceReader) -> None:
        """Take the rows of E, reserved ones included; of each sequence the newest `length` items are used."""
        super().__init__()
        self.length = length
        self.reads = reads
        self.items = nn.Embedding(rows, dim, padding_idx=ROW_PADDING)
        self.bias = nn.Embedding(rows, 1, padding_idx=ROW_PADDING)
        with torch.no_grad():
            self.items.weight.mul_(dim**-0.5)
            self.bias.weight.zero_()

    def set_bias(self, logit: float) -> None:
        """Set the bias of every item to `logit`: see `losses.prior_logit`."""
        with torch.no_grad():
            self.bias.weight.fill_(logit)
            self.bias.weight[ROW_PADDING] = 0.0

    @property
    def item_tables(self) -> tuple[Tensor, ...]:
        """The tables [rows, d] with one vector per item."""
        return (self.items.weight,)

    @abstractmethod
    def states(self, sequences: Tensor) -> Tensor:
        """Return the state [B, L, d] after each item of `sequences` [B, L], L <= `length`; none sees a later item."""

    def logits(self, states: Tensor, items: Tensor) -> Tensor:
        """Return scores [..., C] of `items` [..., C] for `states` [..., d]."""
        scores: Tensor = torch.einsum("...d,...cd->...c", states, self.items(items)) + self.bias(items)[..., 0]
        return scores

    def shared_logits(self, states: Tensor, items: Tensor) -> Tensor:
        """Return scores [..., N] of the same `items` [N] for all `states` [..., d]."""
        scores: Tensor = states @ self.items(items).T + self.bias(items)[:, 0]
        return scores

    def forward(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]; each distinct sequence is encoded once."""
        sequences, sequence_index = self.reads(queries)
        return self.logits(self.states(sequences[:, -self.length :])[:, -1][sequence_index], items)
