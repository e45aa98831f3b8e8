"""One user's log folded from beginning to end: windows, histories, versions and questions, an event at a time.

A second implementation, for readers: lists that only grow, no rings, no batches, no deferred arithmetic. It says what
was to be computed (which items, in which order, under which release); `check` computes and compares it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from streams.records import Kind, Versions
from streams.settings import Settings
from streams.verification import reference_ranking


class Event(NamedTuple):
    """A row of `interactions`."""

    seq: int
    item: int
    kind: int
    time: int
    impression: int
    epoch: int


class InForce(NamedTuple):
    """The release of an epoch: its versions, and its catalogue in row order."""

    versions: Versions
    catalogue: list[int]
    known: frozenset[int]


@dataclass(frozen=True)
class Memory:
    """A negative memory that went up: the exposures whose fold it is, from a zero state."""

    window: int
    items: tuple[int, ...]
    versions: Versions
    size: int
    time: int


@dataclass(frozen=True)
class Question:
    """A click that was ranked, and all that its nets may see."""

    seq: int
    epoch: int
    time: int
    target: int
    listed: reference_ranking.Listed
    logged: bool
    versions: Versions
    history: list[int]
    window: int
    r2_items: tuple[int, ...]
    r2_age: int
    clicks: list[int]
    exposures: list[int]


@dataclass
class Account:
    """What a user's log comes to."""

    user: str
    settings: Settings
    force: Callable[[int], InForce]
    questions: list[Question] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    uploads: dict[int, list[int]] = field(default_factory=dict)  # by epoch, whole
    clicks: list[int] = field(default_factory=list)
    exposures: list[int] = field(default_factory=list)
    events: int = 0
    time: int = 0
    encoder: int | None = None
    versions: Versions = field(default_factory=Versions)
    window: int = 0
    closed: tuple[int, ...] = ()  # items of the last closed window
    closed_at: int = 0
    r2_items: tuple[int, ...] = ()  # items whose fold r2 is: more than `closed` where windows carry their state on
    open: list[int] = field(default_factory=list)
    opened_at: int = 0

    def fold(self, events: Sequence[Event]) -> Account:
        """Fold all of the user's events, in order of seq."""
        for epoch, some in groupby(events, lambda event: event.epoch):
            self.versions = self.force(epoch).versions
            if self.versions.encoder != self.encoder:
                self._rebuild()
            for unit in _units(list(some)):
                self._unit(unit)
        return self

    def _rebuild(self) -> None:
        """Under a new encoder the closed window goes up again, folded from zero."""
        self.encoder = self.versions.encoder
        self.r2_items = self.closed
        if self.window:
            self._upload()

    def _upload(self) -> None:
        memory = Memory(self.window, self.r2_items, self.versions, len(self.closed), self.closed_at)
        self.memories.append(memory)

    def _unit(self, unit: list[Event]) -> None:
        time, age = unit[0].time, self.settings.window_age_s
        if self.open and age is not None and time - self.opened_at > int(age * 1000):
            self._close(time)
        for event in unit:
            ranked = event.kind == Kind.CLICK
            if ranked and reference_ranking.evaluated(self.settings.seed, self.user, event.seq, self.settings.evaluate):
                self.questions.append(self._question(event, unit))
        for event in unit:
            self._learn(event)
            self.events, self.time = self.events + 1, event.time

    def _learn(self, event: Event) -> None:
        if event.kind == Kind.EXPOSURE:
            if not self.open:
                self.opened_at = event.time
            self.exposures.append(event.item)
            self.open.append(event.item)
            if len(self.open) >= self.settings.threshold:
                self._close(event.time)
        elif event.kind in (Kind.CLICK, Kind.PAST_CLICK):
            self.clicks.append(event.item)
            self.uploads.setdefault(event.epoch, []).append(event.item)

    def _close(self, time: int) -> None:
        carried = self.r2_items if self.settings.carry else ()
        self.window, self.closed, self.closed_at = self.window + 1, tuple(self.open), time
        self.r2_items, self.open = carried + self.closed, []
        self._upload()

    def _question(self, event: Event, unit: list[Event]) -> Question:
        settings, force = self.settings, self.force(event.epoch)
        clicked = {other.item for other in unit if other.kind == Kind.CLICK}
        beside = [other.item for other in unit if other.item not in clicked]
        logged = settings.exposures == "logged" and event.impression != 0 and bool(beside)
        cold = event.item not in force.known
        if logged and {other.kind for other in unit if other.item not in clicked} == {Kind.CANDIDATE}:
            own = [other.item for other in unit if other.seq == event.seq or other.item not in clicked]
            listed = reference_ranking.Listed(own, own.index(event.item), cold)
        elif logged:
            listed = reference_ranking.slate(settings.seed, self.user, event.seq, beside, event.item, cold=cold)
        else:
            listed = reference_ranking.sampled(
                settings.seed, self.user, event.seq, force.catalogue, event.item, settings.negatives
            )
        earlier = [item for epoch, items in self.uploads.items() if epoch < event.epoch for item in items]
        time = unit[0].time
        return Question(
            seq=event.seq,
            epoch=event.epoch,
            time=time,
            target=event.item,
            listed=listed,
            logged=logged,
            versions=force.versions,
            history=earlier[-settings.history_long :],
            window=self.window,
            r2_items=self.r2_items,
            r2_age=max(time - self.closed_at, 0) if self.window else 0,
            clicks=self.clicks[-settings.history_short :],
            exposures=self.exposures[-settings.history_short :],
        )


def _units(events: list[Event]) -> Iterator[list[Event]]:
    """Impressions, and single events without one."""
    unit: list[Event] = []
    for event in events:
        if unit and not (event.impression and event.impression == unit[-1].impression):
            yield unit
            unit = []
        unit.append(event)
    if unit:
        yield unit
