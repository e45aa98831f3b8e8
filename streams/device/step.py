"""One batch of one user's events applied to the state: predict, then learn, a unit at a time.

Pure and plain: `step(state, batch, context) -> Step`. The arithmetic is symbolic: a `Fold` stands for the GRU state
after some exposures, so that the folds of many users are computed together afterwards, on tiles (`device_batch`).
A unit is an impression, or a single event without one. The clicks of a unit are ranked as the state stood before its
first event; only then do its events enter rings and windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.data.catalogue import Catalogue
from models.data.event_kinds import CANDIDATE, CLICK, EXPOSURE, PAST_CLICK
from models.data.item_statistics import ItemStatistics
from models.data.views import ViewSpec, view
from models.evaluation.candidates import Candidates, evaluated, sampled, slate
from streams.codec import Tensor, encode
from streams.device.deferred_gru import Fold, value
from streams.records import DeviceBatch, RankRequest, Versions, item_key
from streams.settings import Settings
from streams.state.device import DeviceState, Pending, keys_bytes

NONE = np.empty(0, dtype=np.int64)  # uploaded clicks: the cloud's to know


class SequenceGap(Exception):  # noqa: N818 - a hole in a user's events, not a fault of this process
    """A batch starts behind the next expected event: what is between was refused, or never sent."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A NegativeMemory whose r2 may still be a fold."""

    user: str
    window: int
    r2: Fold | bytes
    encoder: int
    size: int
    time: int


@dataclass(frozen=True, slots=True)
class Context:
    """What a batch is applied under: the settings, and what the partition's marks said."""

    settings: Settings
    spec: ViewSpec
    epoch: int
    versions: Versions
    catalogue: Catalogue
    standing: ItemStatistics  # of items, as the epoch began
    asked_wall: int = 0
    again: bool = False  # send the last r2 again before the first request: the cloud may have moved past it


@dataclass(frozen=True, slots=True)
class User:
    """A user's state with its memories, which may still be folds (those in `state` are then out of date)."""

    state: DeviceState
    memory: Fold | bytes
    r2: Fold | bytes

    @classmethod
    def of(cls, state: DeviceState) -> User:
        """The user as the table has it."""
        return cls(state, state.memory, state.r2)

    def uploaded(self) -> User:
        """The user whose clicks went up."""
        return replace(self, state=msgspec.structs.replace(self.state, uploads=[]))

    def settled(self) -> DeviceState:
        """The state, once the folds are computed."""
        return msgspec.structs.replace(self.state, memory=value(self.memory), r2=value(self.r2))


@dataclass(slots=True)
class Step:
    """What a batch led to: the user after it, what goes up in this order, requests to keep, and counts of events."""

    user: User
    uplink: list[Memory | RankRequest] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    applied: int = 0
    repeated: int = 0


def step(before: User, batch: DeviceBatch, context: Context) -> Step:
    """Apply `batch`. Events applied before are skipped. Raises SequenceGap where events are missing before it."""
    n = len(batch.items)
    skip = before.state.seq - batch.seq
    if skip < 0:
        raise SequenceGap(f"seq {batch.seq} behind a missing or refused record: {before.state.seq} is expected")
    if skip >= n:
        return Step(before, repeated=n)
    walk = _Walk(before, batch, context)
    walk.run(skip)
    return Step(
        User(walk.state, walk.memory, walk.r2),
        walk.uplink,
        walk.pending,
        applied=n - skip,
        repeated=skip,
    )


class _Walk:
    """Walks over the units of a batch with a copy of the state."""

    def __init__(self, before: User, batch: DeviceBatch, context: Context) -> None:
        old = before.state
        self.state = msgspec.structs.replace(
            old, clicks=old.clicks[:], exposures=old.exposures[:], uploads=old.uploads[:]
        )
        self.memory, self.r2 = before.memory, before.r2
        self.batch, self.context, self.settings = batch, context, context.settings
        self.keys = [item_key(item) for item in batch.items]
        self.spec = context.spec
        self.again = context.again
        self.uplink: list[Memory | RankRequest] = []
        self.pending: list[Pending] = []
        self.own: Fold | None = None  # made in this walk: only such a fold may still grow

    def run(self, start: int) -> None:
        if self.state.encoder != self.context.versions.encoder:
            self.rebuild()
        impressions, n = self.batch.impressions, len(self.keys)
        while start < n:
            end = start + 1
            if impressions[start]:
                while end < n and impressions[end] == impressions[start]:
                    end += 1
            self.unit(start, end)
            start = end
        self.state.seq = self.batch.seq + n
        self.state.time = self.batch.times[-1]

    def rebuild(self) -> None:
        """Fold the closed and the open window again from the ring under the new encoder; send the closed one's r2."""
        state, ring = self.state, self.state.exposures
        state.encoder = self.context.versions.encoder
        shown = len(ring) - state.open
        release = self.context.versions.release
        self.r2 = b""
        if state.window:
            self.r2 = Fold(b"", ring[shown - state.size : shown], release)
            self.send_memory()
        carried = self.r2 if self.settings.carry else b""
        self.memory = Fold(carried, ring[shown:], release) if state.open else carried

    def unit(self, start: int, end: int) -> None:
        time = self.batch.times[start]
        state = self.state
        if self.spec.closes_by_age(state.open, state.opened, time):
            self.close(time)
        kinds, settings, user, seq = self.batch.kinds, self.settings, self.batch.user, self.batch.seq
        for i in range(start, end):
            if kinds[i] == CLICK and evaluated(settings.seed, user, seq + i, settings.evaluate):
                self.request(i, start, end)
        for i in range(start, end):
            self.apply(i)

    def apply(self, i: int) -> None:
        """Learn from event i."""
        kind, key, state, settings = self.batch.kinds[i], self.keys[i], self.state, self.settings
        if kind == EXPOSURE:
            _push(state.exposures, key, 2 * settings.threshold)
            if not state.open:
                state.opened = self.batch.times[i]
            state.open += 1
            self.grow(key)
            if self.spec.closes_by_count(state.open):
                self.close(self.batch.times[i])
        elif kind in (CLICK, PAST_CLICK):
            _push(state.clicks, key, settings.history_short)
            _push(state.uploads, key, settings.history_long)
            state.uploads_epoch = self.context.epoch

    def grow(self, key: int) -> None:
        """Add an exposure to the open window's fold; one that an earlier step left open is copied, not changed."""
        memory, release = self.memory, self.context.versions.release
        if self.own is None or memory is not self.own:
            if isinstance(memory, Fold) and memory is not self.r2 and memory.release == release:
                self.own = Fold(memory.start, memory.keys[:], release)
            else:
                self.own = Fold(memory, [], release)
            self.memory = self.own
        self.own.keys.append(key)

    def close(self, time: int) -> None:
        """End the open window: its r2 goes up, and the state starts again at zero, or goes on where it is carried."""
        state = self.state
        state.window, state.size, state.closed, state.open = state.window + 1, state.open, time, 0
        self.r2, self.own = self.memory, None
        self.send_memory()
        self.memory = self.r2 if self.settings.carry else b""

    def send_memory(self) -> None:
        state = self.state
        self.uplink.append(Memory(self.batch.user, state.window, self.r2, state.encoder, state.size, state.closed))
        self.again = False

    def request(self, i: int, start: int, end: int) -> None:
        """Ask for the priors of click i of the unit [start, end), and keep its view."""
        batch, state, context = self.batch, self.state, self.context
        chosen, kind = self.candidates(i, start, end)
        if self.again and state.window:
            self.send_memory()
        seq, time = batch.seq + i, batch.times[start]
        seen = view(
            NONE,
            _array(state.clicks),
            _array(state.exposures),
            state.open,
            state.window,
            self.spec,
            closed_count=state.size,
        )
        listed, stands = Tensor.of(chosen.keys, "<i8"), context.standing.of(chosen.keys).tobytes()
        request = RankRequest(batch.user, seq, listed, time, state.window, context.versions, context.epoch, stands)
        self.uplink.append(request)
        self.pending.append(
            Pending(
                user=batch.user,
                seq=seq,
                epoch=context.epoch,
                time=time,
                target=self.keys[i],
                place=chosen.target_index,
                candidates=keys_bytes(chosen.keys),
                slate="logged" if kind else "sampled",
                cold=chosen.cold,
                clicks=keys_bytes(seen.clicks),
                exposures=keys_bytes(seen.exposures),
                window=state.window,
                r2_age=max(time - state.closed, 0) if state.window else 0,
                versions=context.versions,
                bytes_up=len(encode(request)),
                asked_wall=context.asked_wall,
                standing=stands,
            )
        )

    def candidates(self, i: int, start: int, end: int) -> tuple[Candidates, bool]:
        """The list that click i is ranked in, and whether it is the logged slate."""
        settings, user, seq, target = self.settings, self.batch.user, self.batch.seq + i, self.keys[i]
        catalogue, kinds = self.context.catalogue, self.batch.kinds
        if settings.exposures == "logged" and self.batch.impressions[i]:
            clicked = {self.keys[j] for j in range(start, end) if kinds[j] == CLICK}
            beside = [j for j in range(start, end) if self.keys[j] not in clicked]
            shown = [self.keys[j] for j in beside]
            if shown:
                cold = not len(catalogue) or bool((catalogue.rows([target]) == 1).all())
                if all(kinds[j] == CANDIDATE for j in beside):
                    place = sum(j < i for j in beside)
                    return Candidates(np.insert(_array(shown), place, target), place, cold), True
                return slate(settings.seed, user, seq, _array(shown), target, cold=cold), True
        return sampled(settings.seed, user, seq, catalogue.keys, target, settings.negatives), False


def _push(ring: list[int], key: int, size: int) -> None:
    ring.append(key)
    if len(ring) > size:
        del ring[: len(ring) - size]


def _array(keys: list[int]) -> NDArray[np.int64]:
    return np.array(keys, dtype=np.int64)
