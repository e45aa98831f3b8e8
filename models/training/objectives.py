"""Objectives: the loss of a net on a batch, either of candidate lists or of whole sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.baselines.sequential import Sequential
from models.data.catalogue import ROW_PADDING
from models.data.queries import Queries
from models.training.losses import Loss, corrected


@dataclass(frozen=True)
class ListBatch:
    """V queries, each with a clicked item (column 0) and its own negatives."""

    queries: Queries
    items: Tensor  # [V, 1 + N] rows of E
    log_q: Tensor  # f4 [V, 1 + N]: log of the expected number of draws, 0 for the click
    hidden: Tensor  # bool [V, 1 + N]: negatives to leave out, as the user had the item

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class SequenceBatch:
    """B sequences, trained at all positions at once, with negatives shared by the whole batch."""

    sequences: Tensor  # [B, L]
    targets: Tensor  # [B, L] the item that followed each position, ROW_PADDING: no target
    negatives: Tensor  # [N]
    log_q: Tensor  # f4 [N]: log of the expected number of draws
    hidden: Tensor  # bool [B, N]: negatives to leave out, as the user had the item

    def __len__(self) -> int:
        return int((self.targets != ROW_PADDING).sum())


class ListObjective(nn.Module):
    """The loss of a net that scores queries."""

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(self, batch: ListBatch) -> Tensor:
        """Return the mean loss over the batch."""
        logits = corrected(self.net(batch.queries, batch.items), batch.log_q)
        return self.loss(logits.masked_fill(batch.hidden, -torch.inf))


class SequenceObjective(nn.Module):
    """The loss of a sequential net at all positions of its sequences."""

    def __init__(self, net: Sequential, loss: Loss) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Return the mean loss over the positions that have a target."""
        row, position = (batch.targets != ROW_PADDING).nonzero(as_tuple=True)
        states = self.net.states(batch.sequences)[row, position]  # [P, d]
        targets = batch.targets[row, position]
        clicked = self.net.logits(states, targets[:, None])
        others = corrected(self.net.shared_logits(states, batch.negatives), batch.log_q)
        return self.loss(torch.cat([clicked, others.masked_fill(batch.hidden[row], -torch.inf)], 1))


def objective(net: nn.Module, loss: Loss) -> nn.Module:
    """Return the objective for `net`: of sequences if it is a sequential net, else of lists."""
    return SequenceObjective(net, loss) if isinstance(net, Sequential) else ListObjective(net, loss)
