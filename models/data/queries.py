"""What both sides know when clicks are to be predicted: the one input of every net that ranks candidates.

A query is one moment of one user. Several queries of a user may share a delayed history, which is then held and
encoded once. Sequences are right-aligned: the newest item stands last, padding (row 0) stands on the left.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Queries:
    """V queries over U distinct delayed histories, as rows of E (i8)."""

    users: Tensor  # [V] row of the user, from 0
    history: Tensor  # [U, L_S] the cloud's clicks
    of: Tensor  # [V] which history a query has
    clicks: Tensor  # [V, L] the device's clicks before the target
    exposures: Tensor  # [V, L_F] the device's exposures before the target
    window: Tensor  # [V, W] the exposures that the uploaded r2 stands for

    def __len__(self) -> int:
        """The number V of queries."""
        return len(self.users)

    def __getitem__(self, which: Tensor | slice) -> Queries:
        """The queries `which`, with the histories that they need and no other."""
        used, of = torch.unique(self.of[which], return_inverse=True)
        return Queries(
            self.users[which],
            self.history[used],
            of,
            self.clicks[which],
            self.exposures[which],
            self.window[which],
        )

    def to(self, device: torch.device) -> Queries:
        """The same queries on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def delayed(queries: Queries) -> tuple[Tensor, Tensor]:
    """What a slow net reads: (distinct sequences [U, L_S], the one of each query [V])."""
    return queries.history, queries.of


def recent(queries: Queries) -> tuple[Tensor, Tensor]:
    """What a fast net reads: (sequences [V, L], the one of each query [V])."""
    return queries.clicks, torch.arange(len(queries), device=queries.of.device)
