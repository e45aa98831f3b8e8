"""What is known before each click, as queries: from the log folded by the one rule of `models.data.interaction_log`."""

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

CARRIED = 40  # exposures that a state carried over windows is computed from


@dataclass(frozen=True)
class Known:
    """Queries for the clicks of a log with epochs.

    `fresh`: r2 of the last L_F exposures, as the paper reads; else of the last closed window, as it is served.
    """

    folded: ClickStates
    protocol: Protocol
    fresh: bool = True

    @classmethod
    def of(cls, log: InteractionLog, protocol: Protocol, *, fresh: bool = True) -> Known:
        """Fold `log`, whose keys are rows of E."""
        spec = ViewSpec(history_long=protocol.history, history_short=protocol.short, threshold=protocol.threshold)
        return cls(click_states(log, spec), protocol, fresh)

    def blocks(self, clicks: Ints) -> Ints:
        """Numbers from 0: clicks of one user with one delayed history have the same."""
        some = np.searchsorted(self.folded.event, clicks)
        codes = self.folded.user[some] * (len(self.folded.click_keys) + 1) + self.folded.history.end[some]
        blocks: Ints = np.unique(codes, return_inverse=True)[1]
        return blocks

    def __call__(self, clicks: Ints) -> Queries:
        """What is known before `clicks`, given as places in the log."""
        folded, protocol = self.folded, self.protocol
        some = np.searchsorted(folded.event, clicks)
        user = folded.user[some]
        length = folded.history.end[some] - folded.history.start[some]  # all of it: tells a user's histories apart
        codes = length * len(folded.log.offsets) + user  # a number a pair, the shortest first: cheapest for DIN
        _, first, of = np.unique(codes, return_index=True, return_inverse=True)
        shown, width = self._shown()
        return Queries(
            users=torch.from_numpy(user),
            history=torch.from_numpy(
                folded.history.gather(folded.click_keys, some[first], protocol.history, ROW_PADDING)
            ),
            of=torch.from_numpy(of),
            clicks=torch.from_numpy(folded.clicks.gather(folded.click_keys, some, protocol.recent, ROW_PADDING)),
            exposures=torch.from_numpy(
                folded.exposures.gather(folded.exposure_keys, some, protocol.short, ROW_PADDING)
            ),
            window=torch.from_numpy(shown.gather(folded.exposure_keys, some, width, ROW_PADDING)),
        )

    def _shown(self) -> tuple[Ranges, int]:
        """The exposures that r2 stands for, and how many of them at most."""
        folded, protocol = self.folded, self.protocol
        if self.fresh:
            return folded.exposures, protocol.short
        if protocol.carried:  # the state of all windows so far; what lies further back is taken as forgotten
            return Ranges(folded.exposures.start, folded.closed.end), max(CARRIED, protocol.threshold)
        return folded.closed, protocol.threshold

    def swapped(self, queries: Queries, others: Ints) -> Queries:
        """`queries` with the exposures known before the clicks `others`: a canary, they say nothing of the user."""
        strangers = self(others)
        return replace(queries, exposures=strangers.exposures, window=strangers.window)
