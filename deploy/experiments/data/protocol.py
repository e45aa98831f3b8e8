"""The paper's protocol as one value, and the split of every user's clicks into its phases.

A user's l clicks in time order: the last `test` are the test phase, the `fast` before them the fast training phase, of
which the last is held out for every choice (validation); all earlier ones are the slow training phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from models.data.event_kinds import CLICK
from models.data.interaction_log import InteractionLog, Ints, group_starts

RULES = ("uniform", "popularity", "full")  # of candidates
Positives = Literal["rated", "all"]
MinCount = Literal["users", "both"]


class Phase(IntEnum):
    """The use of a click."""

    SLOW = 0
    FAST = 1
    VALIDATION = 2
    TEST = 3


@dataclass(frozen=True)
class Protocol:
    """The evaluation protocol: split, candidates, visible history.

    Names and values of the fields are hashed into the names of stored cells: renaming a field orphans all cells.
    """

    candidates: str = "uniform"  # one of RULES, or module:Name of a plugin
    negatives: int = 99
    positives: Positives = "rated"
    exposures: str | None = None  # a policy, or module:Name of a plugin; None: chosen by positives and source
    min_count: MinCount = "users"
    minimum: int = 20  # interactions
    test: int = 5
    fast: int = 5
    delayed: bool = True  # slow nets see the slow phase only; False: everything before the target
    history: int = 50  # L_S
    recent: int = 10  # clicks before the target that a fast net can see: L_F for all
    short: int = 10  # L_F
    threshold: int = 10  # exposures per window of the served r2
    carried: bool = False  # the GRU's state is carried over windows; False: each window begins at zero
    seed: int = 1  # of the candidates: the same lists for all models and all of their seeds

    def __post_init__(self) -> None:
        """Raise ValueError if no click is left for validation or test."""
        if self.test < 1 or self.fast < 1 or self.negatives < 1:
            raise ValueError("test, fast and negatives must be at least 1")

    @property
    def min_clicks(self) -> int:
        """The number of clicks that a user must have."""
        return self.test + self.fast + 1


LEAVE_ONE_OUT = Protocol(
    positives="all",
    exposures="logged",  # a log of ratings has none, and no net of this comparison reads them
    negatives=100,
    minimum=5,
    test=1,
    fast=1,
    delayed=False,
    history=200,
    recent=200,
)
"""The protocol of SASRec and its successors: the last item, with all earlier ones known, among 100 uniform ones."""


def phases_of(log: InteractionLog, protocol: Protocol) -> Ints:
    """Return the phase of each click, -1 for other events: [N]. Each user needs `protocol.min_clicks` clicks."""
    is_click = log.kinds == CLICK
    clicks = np.concatenate([[0], np.cumsum(is_click)])
    after = clicks[log.offsets[1:]][log.users] - clicks[:-1]  # clicks from this event on, itself included
    last = protocol.test
    phase = np.full(len(log.keys), Phase.SLOW)
    phase[after <= last + protocol.fast] = Phase.FAST
    phase[after == last + 1] = Phase.VALIDATION
    phase[after <= last] = Phase.TEST
    return np.where(is_click, phase, -1)


def cut_as_served(log: InteractionLog, phase: Ints, protocol: Protocol) -> InteractionLog:
    """Return the log with the epochs of the evaluation: one begins after the slow phase, or with each group."""
    starts = group_starts(log)
    begins = np.zeros(len(log.keys), np.bool_)
    if protocol.delayed:
        late = np.flatnonzero(phase > Phase.SLOW)
        _, first = np.unique(log.users[late], return_index=True)
        begins[starts[late[first]]] = True
    else:
        begins[starts] = True
    return _cut(log, begins)


def cut_for_training(log: InteractionLog, phase: Ints, block: int, generator: np.random.Generator) -> InteractionLog:
    """Return the log with an epoch for every `block` clicks of the slow phase, each user's first one of random size.

    So a click's delayed history ends 0 to block - 1 clicks before it, as the served one ends before the test clicks.
    """
    clicks = np.flatnonzero(phase >= 0)
    user = log.users[clicks]
    number = np.arange(len(clicks)) - np.searchsorted(user, user)  # of the click among the user's
    shift = generator.integers(0, block, len(log.offsets) - 1)
    begins = np.zeros(len(log.keys), np.bool_)
    begins[group_starts(log)[clicks[(number + shift[user]) % block == 0]]] = True
    return _cut(log, begins)


def _cut(log: InteractionLog, begins: np.ndarray) -> InteractionLog:
    return InteractionLog(log.offsets, log.keys, log.kinds, log.times, log.impressions, np.cumsum(begins))
