"""One batch of one user's events applied to the user's state: predict, then learn, one impression group at a time.

Pure: `step(user, batch, context) -> Step`. The clicks of an impression group are ranked with the state before its first
event; only then do its events enter histories and windows. GRU states are deferred, so that those of many users are
computed together afterwards, on tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.data.event_kinds import CANDIDATE, CLICK, EXPOSURE, PAST_CLICK
from models.data.impression_groups import group_ranges
from models.data.views import view
from models.data.windows import split_windows
from models.evaluation.candidates import Candidates, evaluated, sampled, slate
from streams.codec import Tensor, encode
from streams.device.deferred_gru import DeferredGru
from streams.device.user import Context, DeferredNegativeMemory, User
from streams.plugins.loaded import loaded
from streams.records import RANKED, DeviceBatch, RankRequest, item_key
from streams.state.device import PendingRequest, keys_bytes
from streams.state.numbering import is_of_other_events, with_idempotency_key, with_seq

_NO_UPLOADS = np.empty(0, dtype=np.int64)  # only the cloud knows the uploaded clicks


class SequenceGap(Exception):  # noqa: N818 - a gap in a user's events, not a fault of this process
    """A batch starts behind the next expected event: the events between were refused, or never sent."""


class KeyReused(Exception):  # noqa: N818 - a fault of the sender, not of this process
    """A batch has the idempotency key of other events."""


@dataclass(slots=True)
class Step:
    """The result of a batch: the user after it, records to send up in this order, requests to keep, event counts."""

    user: User
    uplink: list[DeferredNegativeMemory | RankRequest] = field(default_factory=list)
    requests: list[PendingRequest] = field(default_factory=list)
    applied: int = 0
    repeated: int = 0


def step(before: User, batch: DeviceBatch, context: Context) -> Step:
    """Apply `batch`; skip events that were applied before.

    Raises SequenceGap if events before it are missing, KeyReused if its key came with other events.
    """
    n, of_user = len(batch.items), with_seq(batch, before.state.seq, before.state.keys)
    if of_user is None:
        if is_of_other_events(batch, before.state.keys):
            raise KeyReused("its idempotency key came with other events before")
        return Step(before, repeated=n)
    batch = of_user
    skip = before.state.seq - batch.seq
    if skip < 0:
        raise SequenceGap(f"seq {batch.seq} behind a missing or refused record: {before.state.seq} is expected")
    if skip >= n:
        return Step(before, repeated=n)
    made = _BatchStep(before, batch, context)
    made.apply_from(skip)
    made.state.keys = with_idempotency_key(before.state.keys, batch)
    user = User(made.state, made.gru_state, made.r2)
    return Step(user, made.uplink, made.requests, applied=n - skip, repeated=skip)


def prepare_request(before: User, user: str, context: Context) -> Step:
    """Return the user under the encoder in force, and the r2 that the cloud must have before a request."""
    made = _BatchStep(before, DeviceBatch(user, before.state.seq, [], b"", [], []), context)
    if made.state.encoder != context.versions.encoder:
        made.change_encoder()
    if made.resend_r2 and made.state.window:
        made.send_r2()
    changed = before.state.encoder != made.state.encoder
    return Step(User(made.state, made.gru_state, made.r2) if changed else before, made.uplink)


class _BatchStep:
    """A copy of the state, changed by one impression group after the other."""

    __slots__ = (
        "batch", "context", "growing", "gru_state", "keys", "r2", "requests", "resend_r2", "settings", "spec", "state",
        "uplink",
    )  # fmt: skip

    def __init__(self, before: User, batch: DeviceBatch, context: Context) -> None:
        old = before.state
        self.state = msgspec.structs.replace(
            old, clicks=old.clicks[:], exposures=old.exposures[:], uploads=old.uploads[:]
        )
        self.gru_state, self.r2 = before.gru_state, before.r2
        self.batch, self.context, self.settings = batch, context, context.settings
        self.keys = [item_key(item) for item in batch.items]
        self.spec = context.spec
        self.resend_r2 = context.resend_r2
        self.uplink: list[DeferredNegativeMemory | RankRequest] = []
        self.requests: list[PendingRequest] = []
        self.growing: DeferredGru | None = None  # created in this step: only this one may be changed

    def apply_from(self, start: int) -> None:
        """Apply the events from `start` on."""
        if self.state.encoder != self.context.versions.encoder:
            self.change_encoder()
        impressions = self.batch.impressions
        if any(impressions):
            for first, end in group_ranges(impressions, start):
                self.apply_group(first, end)
        else:  # the same ranges, and most logs have no others
            for i in range(start, len(impressions)):
                self.apply_group(i, i + 1)
        self.state.seq = self.batch.seq + len(self.keys)
        self.state.time = self.batch.times[-1]

    def change_encoder(self) -> None:
        """Recompute closed and open window under the new encoder; send the r2 of the closed one."""
        state, release = self.state, self.context.versions.release
        state.encoder = self.context.versions.encoder
        closed, still_open = split_windows(state.exposures, state.open_count, state.closed_count)
        self.r2 = b""
        if state.window:
            self.r2 = DeferredGru(b"", closed, release)
            self.send_r2()
        start = self.r2 if self.settings.carry else b""
        self.gru_state = DeferredGru(start, still_open, release) if state.open_count else start

    def apply_group(self, start: int, end: int) -> None:
        """Rank the clicks of the impression group [start, end), then learn from its events."""
        batch, state, kinds = self.batch, self.state, self.batch.kinds
        if state.open_count and self.spec.closes_by_age(state.open_count, state.opened, batch.times[start]):
            self.close_window(batch.times[start])
        for i in range(start, end):
            if kinds[i] == CLICK and self.is_ranked(i):
                self.request(i, start, end)
        for i in range(start, end):
            kind = kinds[i]
            if kind == EXPOSURE:
                self.learn_exposure(self.keys[i], batch.times[i])
            elif kind in (CLICK, PAST_CLICK):
                self.learn_click(self.keys[i])

    def is_ranked(self, i: int) -> bool:
        """Return True if click i is ranked: for a gateway's ranking always, else if it is drawn."""
        batch, settings = self.batch, self.settings
        if batch.impressions[i] >= RANKED:
            return True
        return evaluated(settings.seed, batch.user, batch.seq + i, settings.evaluate)

    def learn_click(self, key: int) -> None:
        """Add a click to the histories."""
        state, settings, context = self.state, self.settings, self.context
        _append(state.clicks, key, settings.history_short)
        state.uploads = state.not_uploaded(context.ended)
        _append(state.uploads, key, settings.history_long)
        state.uploads_epoch = max(context.epoch, context.ended + 1)

    def learn_exposure(self, key: int, time: int) -> None:
        """Add an exposure to the history and to the open window."""
        state, spec = self.state, self.spec
        _append(state.exposures, key, 2 * spec.threshold)
        if not state.open_count:
            state.opened = time
        state.open_count += 1
        if self.growing is not None and self.gru_state is self.growing:
            self.growing.keys.append(key)
        else:
            self.begin_growing(key)
        if spec.closes_by_count(state.open_count):
            self.close_window(time)

    def begin_growing(self, key: int) -> None:
        """Begin this step's GRU state of the open window with an exposure; one from an earlier step is not changed."""
        before, release = self.gru_state, self.context.versions.release
        if isinstance(before, DeferredGru) and before is not self.r2 and before.release == release:
            self.growing = DeferredGru(before.start, [*before.keys, key], release)
        else:
            self.growing = DeferredGru(before, [key], release)
        self.gru_state = self.growing

    def close_window(self, time: int) -> None:
        """Close the open window and send its r2; the next begins at zero, or at r2 if the state is carried over."""
        state = self.state
        state.window, state.closed_count, state.closed, state.open_count = state.window + 1, state.open_count, time, 0
        self.r2, self.growing = self.gru_state, None
        self.send_r2()
        self.gru_state = self.r2 if self.settings.carry else b""

    def send_r2(self) -> None:
        """Send the r2 of the last closed window."""
        state, user = self.state, self.batch.user
        memory = DeferredNegativeMemory(user, state.window, self.r2, state.encoder, state.closed_count, state.closed)
        self.uplink.append(memory)
        self.resend_r2 = False

    def request(self, i: int, start: int, end: int) -> None:
        """Send a request for click i of the impression group [start, end), and keep what the nets may see of it.

        A click without other candidates is not ranked: any scorer would rank it first.
        """
        batch, state, context = self.batch, self.state, self.context
        chosen, logged = self.candidates(i, start, end)
        if len(chosen.keys) < 2:
            return  # no other item is known yet: the recorder counts the click as not ranked
        if self.resend_r2 and state.window:
            self.send_r2()
        seq, time = batch.seq + i, batch.times[start]
        seen = view(
            _NO_UPLOADS,
            _array(state.clicks),
            _array(state.exposures),
            state.open_count,
            state.window,
            self.spec,
            closed_count=state.closed_count,
        )
        statistics = context.item_statistics.buckets_of(chosen.keys).tobytes()
        statistics_epoch = context.item_statistics.epoch + 1
        request = RankRequest(
            user=batch.user,
            seq=seq,
            candidates=Tensor.of(chosen.keys, "<i8"),
            time=time,
            window=state.window,
            versions=context.versions,
            epoch=context.epoch,
            item_statistics=statistics,
            statistics_epoch=statistics_epoch,
        )
        self.uplink.append(request)
        self.requests.append(
            PendingRequest(
                user=batch.user,
                seq=seq,
                epoch=context.epoch,
                time=time,
                target=self.keys[i],
                target_index=chosen.target_index,
                candidates=keys_bytes(chosen.keys),
                slate="logged" if logged else "sampled",
                cold=chosen.cold,
                clicks=keys_bytes(seen.clicks),
                exposures=keys_bytes(seen.exposures),
                window=state.window,
                r2_age=max(time - state.closed, 0) if state.window else 0,
                versions=context.versions,
                bytes_up=len(encode(request)),
                asked_wall=context.asked_wall,
                item_statistics=statistics,
                statistics_epoch=statistics_epoch,
            )
        )

    def candidates(self, i: int, start: int, end: int) -> tuple[Candidates, bool]:
        """Return the list in which click i is ranked, and True if it is the logged slate.

        While the release in force has no items, candidates are drawn from the items seen before the epoch.
        """
        settings, user, seq, target = self.settings, self.batch.user, self.batch.seq + i, self.keys[i]
        catalogue, kinds = self.context.catalogue, self.batch.kinds
        untrained, impression = not len(catalogue), self.batch.impressions[i]
        if impression >= RANKED or (settings.exposures == "logged" and impression):
            clicked = {self.keys[j] for j in range(start, end) if kinds[j] == CLICK}
            others = [j for j in range(start, end) if self.keys[j] not in clicked]
            shown = _array([self.keys[j] for j in others])
            if others:
                cold = untrained or bool((catalogue.rows([target]) == 1).all())
                if all(kinds[j] == CANDIDATE for j in others):  # a list made for ranking: its order is kept
                    index = sum(j < i for j in others)
                    return Candidates(np.insert(shown, index, target), index, cold), True
                return slate(settings.seed, user, seq, shown, target, cold=cold), True
        known = self.context.item_statistics.keys if untrained else catalogue.keys
        if (plugins := loaded(settings.plugins)).negatives is not None:
            clicks = _array(self.state.clicks)
            keys = plugins.draw(settings.seed, user, seq, target, known, clicks, settings.negatives)
            cold = untrained or target not in known or len(keys) < settings.negatives
            return slate(settings.seed, user, seq, keys, target, cold=cold), False
        drawn = sampled(settings.seed, user, seq, known, target, settings.negatives)
        return drawn._replace(cold=untrained or drawn.cold), False


def _append(history: list[int], key: int, longest: int) -> None:
    history.append(key)
    if len(history) > longest:
        del history[: len(history) - longest]


def _array(keys: list[int]) -> NDArray[np.int64]:
    return np.array(keys, dtype=np.int64)
