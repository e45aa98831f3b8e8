"""The reference fold: one user's log from beginning to end, one event at a time.

It is simple on purpose: lists that only grow, no ring buffers, no batches, no deferred arithmetic. It determines the
inputs of each result (which items, in which order, under which release); `verify` computes and compares the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np

from streams.plugins.loaded import loaded
from streams.records import RANKED, Versions
from streams.settings import Settings
from streams.verification.reference_ranking import (
    CANDIDATE,
    CLICK,
    EXPOSURE,
    PAST_CLICK,
    CandidateList,
    evaluated,
    sampled,
    slate,
)


class Event(NamedTuple):
    """A row of `interactions`."""

    seq: int
    item: int
    kind: int
    time: int
    impression: int
    epoch: int


class ReleaseInForce(NamedTuple):
    """The release in force at an event: its versions, and its catalogue in row order."""

    versions: Versions
    catalogue: list[int]
    known: frozenset[int]


class Window(NamedTuple):
    """A closed window: its exposures, and the event time at which it closed."""

    items: tuple[int, ...]
    time: int


@dataclass(frozen=True)
class R2Upload:
    """An upload of r2: the exposures whose GRU state it is, from a zero state."""

    window: int
    items: tuple[int, ...]
    versions: Versions
    size: int
    time: int


@dataclass(frozen=True)
class RankedClick:
    """A click drawn for evaluation, and the inputs of its ranking; without other candidates it is not ranked."""

    seq: int
    epoch: int
    time: int
    target: int
    candidates: CandidateList
    logged: bool
    versions: Versions
    history: list[int]
    window: int
    r2_items: tuple[int, ...]
    r2_age: int
    clicks: list[int]
    exposures: list[int]


@dataclass
class ReferenceFold:
    """One user's state after the folded events, and the records that the user's device must have sent."""

    user: str
    settings: Settings
    release_at: Callable[[Event], ReleaseInForce]  # at the first event of an impression group
    known_items: Callable[[Event], list[int]]  # at a click while the release in force has no items
    ranked: list[RankedClick] = field(default_factory=list)
    r2_uploads: list[R2Upload] = field(default_factory=list)
    uploads: dict[int, list[int]] = field(default_factory=dict)  # epoch -> all its clicks
    clicks: list[int] = field(default_factory=list)
    exposures: list[int] = field(default_factory=list)
    events: int = 0
    time: int = 0
    encoder: int | None = None
    versions: Versions = field(default_factory=Versions)
    windows: list[Window] = field(default_factory=list)  # closed ones; they are numbered from 1
    since: int = 1  # first window in r2; an earlier one than the last closed if windows carry their state on
    open: list[int] = field(default_factory=list)  # items of the open window
    opened_at: int = 0

    def fold(self, events: Sequence[Event]) -> ReferenceFold:
        """Fold all of the user's events, in order of seq."""
        for _, of_epoch in groupby(events, lambda event: event.epoch):
            for group in _impression_groups(list(of_epoch)):
                self.versions = self.release_at(group[0]).versions
                if self.versions.encoder != self.encoder:
                    self._change_encoder()
                self._apply(group)
        return self

    @property
    def window(self) -> int:
        """The number of the last closed window; 0: none."""
        return len(self.windows)

    def r2(self, window: int, since: int, versions: Versions) -> R2Upload:
        """Return the upload of r2 of a window that goes back to window `since` if windows carry their state on."""
        first = since if self.settings.carry else window
        items = tuple(item for each in self.windows[first - 1 : window] for item in each.items)
        closed = self.windows[window - 1]
        return R2Upload(window, items, versions, len(closed.items), closed.time)

    def r2_items(self, since: int) -> tuple[int, ...]:
        """Return the exposures whose GRU state is r2 of the last closed window; none before the first one."""
        return self.r2(self.window, since, self.versions).items if self.window else ()

    def _change_encoder(self) -> None:
        """Upload r2 of the closed window again, encoded from a zero state by the new encoder."""
        self.encoder = self.versions.encoder
        self.since = max(self.window, 1)
        if self.window:
            self._upload()

    def _upload(self) -> None:
        self.r2_uploads.append(self.r2(self.window, self.since, self.versions))

    def _apply(self, group: list[Event]) -> None:
        time, age = group[0].time, self.settings.window_age_s
        if self.open and age is not None and time - self.opened_at > int(age * 1000):
            self._close(time)
        share = self.settings.evaluate
        for event in group:
            is_ranked = event.impression >= RANKED or evaluated(self.settings.seed, self.user, event.seq, share)
            if event.kind == CLICK and is_ranked:
                self.ranked.append(self._rank(event, group))
        for event in group:
            self._learn(event)
            self.events, self.time = self.events + 1, event.time

    def _learn(self, event: Event) -> None:
        if event.kind == EXPOSURE:
            if not self.open:
                self.opened_at = event.time
            self.exposures.append(event.item)
            self.open.append(event.item)
            if len(self.open) >= self.settings.threshold:
                self._close(event.time)
        elif event.kind in (CLICK, PAST_CLICK):
            self.clicks.append(event.item)
            self.uploads.setdefault(event.epoch, []).append(event.item)

    def _close(self, time: int) -> None:
        self.windows.append(Window(tuple(self.open), time))
        self.open = []
        self._upload()

    def _rank(self, event: Event, group: list[Event]) -> RankedClick:
        settings = self.settings
        earlier = [item for epoch, items in self.uploads.items() if epoch < event.epoch for item in items]
        candidates, logged = self._candidates(event, group)
        time = group[0].time
        return RankedClick(
            seq=event.seq,
            epoch=event.epoch,
            time=time,
            target=event.item,
            candidates=candidates,
            logged=logged,
            versions=self.versions,
            history=earlier[-settings.history_long :],
            window=self.window,
            r2_items=self.r2_items(self.since),
            r2_age=max(time - self.windows[-1].time, 0) if self.window else 0,
            clicks=self.clicks[-settings.history_short :],
            exposures=self.exposures[-settings.history_short :],
        )

    def _candidates(self, event: Event, group: list[Event]) -> tuple[CandidateList, bool]:
        """Return the candidate list of a click, and True if it is a slate of the log."""
        settings, release = self.settings, self.release_at(group[0])
        clicked = {other.item for other in group if other.kind == CLICK}
        others = [other for other in group if other.item not in clicked]
        has_slate = event.impression >= RANKED or (settings.exposures == "logged" and event.impression != 0)
        logged = has_slate and bool(others)
        cold = event.item not in release.known
        if logged and {other.kind for other in others} == {CANDIDATE}:  # made for ranking: in its own order
            own = [other.item for other in group if other.seq == event.seq or other.item not in clicked]
            return CandidateList(own, own.index(event.item), cold), logged
        if logged:
            shown = [other.item for other in others]
            return slate(settings.seed, self.user, event.seq, shown, event.item, cold=cold), logged
        catalogue = release.catalogue or self.known_items(event)
        plugins = loaded(settings.plugins)
        if plugins.negatives is not None:
            clicks = np.array(self.clicks[-settings.history_short :], np.int64)
            of_click = settings.seed, self.user, event.seq
            negatives = plugins.draw(*of_click, event.item, np.array(catalogue, np.int64), clicks, settings.negatives)
            cold = cold or len(negatives) < settings.negatives
            return slate(*of_click, negatives.tolist(), event.item, cold=cold), logged
        drawn = sampled(settings.seed, self.user, event.seq, catalogue, event.item, settings.negatives)
        return drawn._replace(cold=cold or drawn.cold), logged


def _impression_groups(events: list[Event]) -> Iterator[list[Event]]:
    """Yield adjacent events of one impression, and each event without an impression alone."""
    group: list[Event] = []
    for event in events:
        if group and not (event.impression and event.impression == group[-1].impression):
            yield group
            group = []
        group.append(event)
    if group:
        yield group
