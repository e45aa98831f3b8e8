"""The log of all users as plain arrays, and the state before each click, computed by counting instead of replaying.

Each user's click and exposure histories are ranges of one array, so the state before an impression group is a few
numbers; a million events take a fraction of a second. The result equals `views.view` on every prefix of the log.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.data.catalogue import Catalogue
from models.data.event_kinds import CANDIDATE, CLICK, CLICK_KINDS, EXPOSURE
from models.data.impression_groups import first_of_group
from models.data.item_statistics import ItemStatistics, ItemStatisticsByEpoch
from models.data.ranges import Ranges
from models.data.views import View, ViewSpec
from models.data.windows import WindowCursor, closed_by_count

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class InteractionLog:
    """Events of all users, one user after the other, each user's in order of seq: columns of equal length [N]."""

    offsets: Ints  # [U + 1]: user u has events offsets[u] to offsets[u + 1]
    keys: Ints  # of the items
    kinds: Ints  # 0 exposure, 1 click, 2 candidate only, 3 past click
    times: Ints  # ms
    impressions: Ints  # 0: the event belongs to no impression
    epochs: Ints  # non-decreasing within a user
    before: ItemStatistics = field(default_factory=ItemStatistics.empty)  # of earlier epochs, which are not in the log

    def __post_init__(self) -> None:
        """Raise ValueError if the columns do not fit each other."""
        n = len(self.keys)
        if any(len(c) != n for c in (self.kinds, self.times, self.impressions, self.epochs)):
            raise ValueError("the columns of a log differ in length")
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != n or (np.diff(self.offsets) < 0).any():
            raise ValueError("offsets must increase from 0 to the length of the log")

    @property
    def users(self) -> Ints:
        """Number of each event's user, [N]."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def item_statistics(self, catalogue: Catalogue) -> ItemStatisticsByEpoch:
        """Return the statistics of the items of `catalogue` at the beginning of every epoch."""
        keys, epochs, clicks = self.before.as_events()
        return ItemStatisticsByEpoch.from_events(
            catalogue.rows(np.concatenate([keys, self.keys])),
            np.concatenate([epochs, self.epochs]),
            np.concatenate([clicks, is_click(self.kinds)]),
            catalogue.size,
        )


@dataclass(frozen=True)
class ClickStates:
    """The clicks (kind 1) of a log with the state before each one's impression group: M clicks.

    Ranges are of `click_keys` or `exposure_keys`.
    """

    log: InteractionLog
    spec: ViewSpec
    event: Ints  # [M] index of each click in the log
    user: Ints  # [M]
    group: Ints  # [M] index of the first event of its group in the log
    time: Ints  # [M] time of that first event, ms
    click_keys: Ints
    exposure_keys: Ints
    history: Ranges  # clicks of earlier epochs
    clicks: Ranges
    exposures: Ranges
    closed: Ranges  # the last closed window
    window: Ints  # [M] its number, 0 = none

    def __len__(self) -> int:
        return len(self.event)

    @property
    def target(self) -> Ints:
        """Keys of the clicked items, [M]."""
        return self.log.keys[self.event]

    def order(self) -> Ints:
        """Return the clicks in total order: by time of the group, then user, then index in the log."""
        return np.lexsort((self.event, self.user, self.time))

    def view(self, i: int) -> View:
        """Return the view of click `i`."""
        long, short = self.spec.history_long, self.spec.history_short

        def last(keys: Ints, ranges: Ranges, n: int) -> Ints:
            start, end = int(ranges.start[i]), int(ranges.end[i])
            return keys[max(start, end - n) : end]

        return View(
            history=last(self.click_keys, self.history, long),
            window=int(self.window[i]),
            window_items=last(self.exposure_keys, self.closed, self.spec.threshold),
            clicks=last(self.click_keys, self.clicks, short),
            exposures=last(self.exposure_keys, self.exposures, short),
        )


def click_states(log: InteractionLog, spec: ViewSpec) -> ClickStates:
    """Return the clicks of `log` with the state before each."""
    n, users = len(log.keys), log.users
    first = group_starts(log)
    clicked = is_click(log.kinds)
    exposed = log.kinds == EXPOSURE
    # [N + 1] number of clicks and of exposures before each event: indices into click_keys and exposure_keys
    clicks_before = np.concatenate([[0], np.cumsum(clicked)])
    exposures_before = np.concatenate([[0], np.cumsum(exposed)])
    event = np.flatnonzero(log.kinds == CLICK)
    group = first[event]
    user_start = log.offsets[users[event]]  # first event of the click's user
    # epochs never decrease within a user, so the events of earlier epochs are those before the epoch's first event
    new_epoch = np.ones(n, bool)
    new_epoch[1:] = (users[1:] != users[:-1]) | (log.epochs[1:] != log.epochs[:-1])
    epoch_start = np.maximum.accumulate(np.where(new_epoch, np.arange(n), 0))
    clicks = Ranges(clicks_before[user_start], clicks_before[group])
    exposures = Ranges(exposures_before[user_start], exposures_before[group])
    closed, window = _windows(log, spec, first, group, exposures, exposures_before)
    return ClickStates(
        log=log,
        spec=spec,
        event=event,
        user=users[event],
        group=group,
        time=log.times[group],
        click_keys=log.keys[clicked],
        exposure_keys=log.keys[exposed],
        history=Ranges(clicks.start, clicks_before[epoch_start[group]]),
        clicks=clicks,
        exposures=exposures,
        closed=closed,
        window=window,
    )


def group_starts(log: InteractionLog) -> Ints:
    """Return the index of the first event of each event's impression group, [N]."""
    users = log.users
    return first_of_group(log.impressions, users[1:] == users[:-1])


def slates(states: ClickStates) -> Ranges:
    """Return the events of each click's impression group, as ranges of the log."""
    ends = np.searchsorted(group_starts(states.log), states.group, side="right")
    return Ranges(states.group, ends)


def is_click(kinds: Ints) -> NDArray[np.bool_]:
    """Return True for clicks, past clicks included: [N] -> [N]."""
    return np.isin(kinds, CLICK_KINDS)


def is_negative(log: InteractionLog) -> NDArray[np.bool_]:
    """Return True for events of items that were on a slate and not clicked, [N]."""
    return np.isin(log.kinds, (EXPOSURE, CANDIDATE))


def _windows(
    log: InteractionLog, spec: ViewSpec, first: Ints, group: Ints, exposures: Ranges, exposures_before: Ints
) -> tuple[Ranges, Ints]:
    """Return the last closed window before each click's impression group, and its number [M]."""
    if spec.window_age_ms is None:
        start, end, number = closed_by_count(spec, exposures.end - exposures.start)
        return Ranges(exposures.start + start, exposures.start + end), number
    states = _aged_windows(log, spec, first, exposures_before)
    return Ranges(states[group, 0], states[group, 1]), states[group, 2]


def _aged_windows(log: InteractionLog, spec: ViewSpec, first: Ints, exposures_before: Ints) -> Ints:
    """Return start, end and number of the last closed window at the first event of each group, else 0: [N, 3]."""
    states = np.zeros((len(log.keys), 3), np.int64)
    kinds, times, firsts = log.kinds.tolist(), log.times.tolist(), first.tolist()
    for start, end in itertools.pairwise(log.offsets.tolist()):
        cursor = WindowCursor.at(spec, int(exposures_before[start]))
        for i in range(start, end):
            if firsts[i] == i:
                cursor.begin_group(times[i])
                states[i] = cursor.start, cursor.end, cursor.number
            if kinds[i] == EXPOSURE:
                cursor.expose(times[i])
    return states
