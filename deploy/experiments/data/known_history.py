"""The known history of each click as queries, from the states that `models.data.interaction_log` computes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from deploy.experiments.data.protocol import Protocol
from models.data.catalogue import ROW_PADDING
from models.data.interaction_log import ClickStates, InteractionLog, Ints, click_states
from models.data.queries import Queries
from models.data.ranges import Ranges
from models.data.views import ViewSpec

CARRIED = 40  # exposures from which a state that is carried over windows is computed


@dataclass(frozen=True)
class KnownHistory:
    """Queries for the clicks of a log with epochs.

    `fresh`: r2 is computed from the last L_F exposures, as in the paper; otherwise from the last closed window, as the
    stream serves it.
    """

    folded: ClickStates
    protocol: Protocol
    fresh: bool = True

    @classmethod
    def of(cls, log: InteractionLog, protocol: Protocol, *, fresh: bool = True) -> KnownHistory:
        """Compute the states before all clicks of `log`, whose keys are rows of E."""
        spec = ViewSpec(history_long=protocol.history, history_short=protocol.short, threshold=protocol.threshold)
        return cls(click_states(log, spec), protocol, fresh)

    def blocks(self, clicks: Ints) -> Ints:
        """Return a number per click, from 0: equal for clicks of one user with the same delayed history."""
        indices = np.searchsorted(self.folded.event, clicks)
        codes = self.folded.user[indices] * (len(self.folded.click_keys) + 1) + self.folded.history.end[indices]
        blocks: Ints = np.unique(codes, return_inverse=True)[1]
        return blocks

    def queries(self, clicks: Ints) -> Queries:
        """Return the queries of `clicks` (indices in the log): the state before each."""
        folded, protocol = self.folded, self.protocol
        indices = np.searchsorted(folded.event, clicks)
        user = folded.user[indices]
        length = folded.history.end[indices] - folded.history.start[indices]  # user and length identify a history
        codes = length * len(folded.log.offsets) + user  # the shortest first: cheapest for DIN
        _, first, history_index = np.unique(codes, return_index=True, return_inverse=True)
        r2_exposures, width = self._r2_exposures()
        return Queries(
            users=torch.from_numpy(user),
            history=torch.from_numpy(
                folded.history.gather(folded.click_keys, indices[first], protocol.history, ROW_PADDING)
            ),
            history_index=torch.from_numpy(history_index),
            clicks=torch.from_numpy(folded.clicks.gather(folded.click_keys, indices, protocol.recent, ROW_PADDING)),
            exposures=torch.from_numpy(
                folded.exposures.gather(folded.exposure_keys, indices, protocol.short, ROW_PADDING)
            ),
            window=torch.from_numpy(r2_exposures.gather(folded.exposure_keys, indices, width, ROW_PADDING)),
        )

    def _r2_exposures(self) -> tuple[Ranges, int]:
        """Return the exposures that r2 is computed from, and the maximal number of them."""
        folded, protocol = self.folded, self.protocol
        if self.fresh:
            return folded.exposures, protocol.short
        if protocol.carried:  # the state of all windows so far; older exposures count as forgotten
            return Ranges(folded.exposures.start, folded.closed.end), max(CARRIED, protocol.threshold)
        return folded.closed, protocol.threshold

    def swapped(self, queries: Queries, others: Ints) -> Queries:
        """Return `queries` with the exposures known before the clicks `others`, which are of other users."""
        shuffled = self.queries(others)
        return replace(queries, exposures=shuffled.exposures, window=shuffled.window)
