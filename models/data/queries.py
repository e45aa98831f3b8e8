"""Queries: the knowledge of device and cloud at the times of predictions, as one input for every net that ranks.

A query is one moment of one user. Several queries of a user may share a delayed history, which is then stored and
encoded once. Sequences are left-padded with row 0: the newest item is in the last column.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Queries:
    """V queries over U distinct delayed histories, as rows of E (i8)."""

    users: Tensor  # [V] number of the user, from 0
    history: Tensor  # [U, L_S] the cloud's clicks
    history_index: Tensor  # [V] index into `history` for each query
    clicks: Tensor  # [V, L] the device's clicks before the target
    exposures: Tensor  # [V, L_F] the device's exposures before the target
    window: Tensor  # [V, W] the exposures from which the uploaded r2 is computed

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, which: Tensor | slice) -> Queries:
        """Return the queries `which`, with only the histories that they use."""
        used, history_index = torch.unique(self.history_index[which], return_inverse=True)
        return Queries(
            self.users[which],
            self.history[used],
            history_index,
            self.clicks[which],
            self.exposures[which],
            self.window[which],
        )

    def to(self, device: torch.device) -> Queries:
        """Return the same queries on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def delayed(queries: Queries) -> tuple[Tensor, Tensor]:
    """Return a slow net's input: distinct sequences [U, L_S], and the index of each query's sequence [V]."""
    return queries.history, queries.history_index


def recent(queries: Queries) -> tuple[Tensor, Tensor]:
    """Return a fast net's input: sequences [V, L], and the index of each query's sequence [V]."""
    return queries.clicks, torch.arange(len(queries), device=queries.history.device)
