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

    states: ClickStates
    protocol: Protocol
    fresh: bool = True

    @classmethod
    def of(cls, log: InteractionLog, protocol: Protocol, *, fresh: bool = True) -> KnownHistory:
        """Compute the states before all clicks of `log`, whose keys are rows of E."""
        spec = ViewSpec(history_long=protocol.history, history_short=protocol.short, threshold=protocol.threshold)
        return cls(click_states(log, spec), protocol, fresh)

    def blocks(self, clicks: Ints) -> Ints:
        """Return a number per click, from 0: equal for clicks of one user with the same delayed history."""
        indices = np.searchsorted(self.states.event, clicks)
        codes = self.states.user[indices] * (len(self.states.click_keys) + 1) + self.states.history.end[indices]
        blocks: Ints = np.unique(codes, return_inverse=True)[1]
        return blocks

    def queries(self, clicks: Ints) -> Queries:
        """Return the queries of `clicks` (indices in the log): the state before each."""
        states, protocol = self.states, self.protocol
        indices = np.searchsorted(states.event, clicks)
        user = states.user[indices]
        length = states.history.end[indices] - states.history.start[indices]  # user and length identify a history
        codes = length * len(states.log.offsets) + user  # the shortest first: cheapest for DIN
        _, first, history_index = np.unique(codes, return_index=True, return_inverse=True)
        r2_exposures, width = self._r2_exposures()
        return Queries(
            users=torch.from_numpy(user),
            history=torch.from_numpy(
                states.history.gather(states.click_keys, indices[first], protocol.history, ROW_PADDING)
            ),
            history_index=torch.from_numpy(history_index),
            clicks=torch.from_numpy(states.clicks.gather(states.click_keys, indices, protocol.recent, ROW_PADDING)),
            exposures=torch.from_numpy(
                states.exposures.gather(states.exposure_keys, indices, protocol.short, ROW_PADDING)
            ),
            window=torch.from_numpy(r2_exposures.gather(states.exposure_keys, indices, width, ROW_PADDING)),
        )

    def _r2_exposures(self) -> tuple[Ranges, int]:
        """Return the exposures that r2 is computed from, and the maximal number of them."""
        states, protocol = self.states, self.protocol
        if self.fresh:
            return states.exposures, protocol.short
        if protocol.carried:  # the state of all windows so far; older exposures count as forgotten
            return Ranges(states.exposures.start, states.closed.end), max(CARRIED, protocol.threshold)
        return states.closed, protocol.threshold

    def swapped(self, queries: Queries, others: Ints) -> Queries:
        """Return `queries` with the exposures known before the clicks `others`, which are of other users."""
        shuffled = self.queries(others)
        return replace(queries, exposures=shuffled.exposures, window=shuffled.window)
