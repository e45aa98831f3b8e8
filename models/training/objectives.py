"""What is minimised: a net, a loss and a batch make one number. Both forms of batch can be cut among processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.baselines.sequential import Sequential
from models.data.catalogue import ROW_PADDING
from models.data.queries import Queries
from models.training.losses import Loss, corrected


@dataclass(frozen=True)
class ListBatch:
    """Queries, each with a clicked item (column 0) and negatives of its own."""

    queries: Queries
    items: Tensor  # [V, 1 + N] rows of E
    log_q: Tensor  # f4 [V, 1 + N]: log of how often it is drawn in expectation, 0 for the click
    hidden: Tensor  # bool [V, 1 + N]: drawn, but no negative of this user's

    def __len__(self) -> int:
        return len(self.items)

    def share(self, rank: int, world: int) -> ListBatch:
        """Every `world`-th query, from `rank` on."""
        some = slice(rank, None, world)
        return ListBatch(self.queries[some], self.items[some], self.log_q[some], self.hidden[some])


@dataclass(frozen=True)
class SequenceBatch:
    """Sequences whose places are all trained at once, with negatives shared by the whole batch."""

    sequences: Tensor  # [B, L]
    targets: Tensor  # [B, L] what followed each place, ROW_PADDING where nothing is to be learnt
    negatives: Tensor  # [N]
    log_q: Tensor  # f4 [N]: log of how often each is drawn in expectation
    hidden: Tensor  # bool [B, N]

    def __len__(self) -> int:
        return int((self.targets != ROW_PADDING).sum())

    def share(self, rank: int, world: int) -> SequenceBatch:
        """Every `world`-th sequence, from `rank` on."""
        some = slice(rank, None, world)
        return replace(self, sequences=self.sequences[some], targets=self.targets[some], hidden=self.hidden[some])


class ListObjective(nn.Module):
    """The loss of a net that scores queries."""

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(self, batch: ListBatch) -> Tensor:
        """One number, the mean over the batch."""
        logits = corrected(self.net(batch.queries, batch.items), batch.log_q)
        return self.loss(logits.masked_fill(batch.hidden, -torch.inf))


class SequenceObjective(nn.Module):
    """The loss of a sequential net at all places of its sequences."""

    def __init__(self, net: Sequential, loss: Loss) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(self, batch: SequenceBatch) -> Tensor:
        """One number, the mean over the places that have a target."""
        which, place = (batch.targets != ROW_PADDING).nonzero(as_tuple=True)
        states = self.net.states(batch.sequences)[which, place]  # [P, d]
        targets = batch.targets[which, place]
        clicked = self.net.logits(states, targets[:, None])
        others = corrected(self.net.shared_logits(states, batch.negatives), batch.log_q)
        return self.loss(torch.cat([clicked, others.masked_fill(batch.hidden[which], -torch.inf)], 1))


def objective(net: nn.Module, loss: Loss) -> nn.Module:
    """What is minimised for `net`: of sequences where it is a sequential one."""
    return SequenceObjective(net, loss) if isinstance(net, Sequential) else ListObjective(net, loss)
