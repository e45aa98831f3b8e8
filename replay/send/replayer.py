"""Sending a log: epochs between their marks, at the pace of a clock, each beginning with what was decided before it."""

from __future__ import annotations

import hashlib
import time as wall
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from replay.prepare.plan import Plan
from replay.send import progress as noted
from replay.send.batching import grouped
from replay.send.epoch_barrier import BEFORE_FIRST, Decide, free
from replay.send.fault_injection import Sent, Transmission
from replay.send.producer import Sender
from replay.send.progress import Progress, ReplayError
from replay.send.sorted_log import Log, Stretch
from replay.send.virtual_clock import VirtualClock
from streams.process import telemetry
from streams.records import EndOfLog, EpochBegin, EpochEnd, Mark
from streams.settings import Settings

TICK_EVENTS = 1000


@dataclass(frozen=True)
class Step:
    """Where a replay stands."""

    doing: Literal["sending", "deciding", "paused", "over"]
    events: int  # acknowledged
    expected: int
    epoch: int
    epochs: int
    time: int  # event time reached, ms


@dataclass(frozen=True)
class ReplayResult:
    """What a replay sent, all its lives together."""

    events_sent: int
    batches: int
    epochs: int
    users: int
    items: int


def send(
    settings: Settings,
    plan: Plan,
    *,
    decide: Decide = free,
    clock: VirtualClock | None = None,
    progress: Callable[[Step], None] = lambda _step: None,
    wall_time: Callable[[], float] = wall.time,
) -> ReplayResult:
    """Send a prepared log, going on where an earlier life of this run stopped. Raises ReplayError.

    `decide(k)` gives the release that epoch k + 1 begins with, after epoch k is over (-1: before the first one): see
    `barrier.lockstep`. `settings.exposures` must say what the log is read with, as that decides results downstream.
    """
    if settings.exposures != plan.policy:
        raise ReplayError(f"the settings say exposures={settings.exposures}, the log was read with {plan.policy}")
    if settings.faults != str(plan.faults):
        raise ReplayError(f"the settings say faults={settings.faults!r}, the log was read with {str(plan.faults)!r}")
    return _Replay(settings, plan, decide, clock or VirtualClock(), progress, wall_time).run()


def digest(plan: Plan) -> str:
    """What tells a plan from another: its rows and its epochs."""
    text = repr((plan.source, plan.policy, plan.contents, plan.ends, plan.loops, str(plan.faults), plan.seed))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Replay:
    """One life of a replay."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        decide: Decide,
        clock: VirtualClock,
        progress: Callable[[Step], None],
        wall_time: Callable[[], float],
    ) -> None:
        self._plan, self._decide, self._clock, self._wall = plan, decide, clock, wall_time
        self._tell, self._folder, self._patience_s = progress, Path(settings.state_dir), settings.patience_s
        self._log_digest = digest(plan)
        self._folder.mkdir(parents=True, exist_ok=True)
        known = noted.load(self._folder, self._log_digest)
        self._fleet = Transmission(plan.faults, plan.seed, known.beside if known else None)
        self._sent = noted.read_back(settings, known, self._log_digest, self._fleet.strangers)
        start = self._sent.progress
        if known is None:
            noted.save(self._folder, start, settings.patience_s)
        self._sender = Sender(settings, start.offsets, start.events, start.batches)
        self._epoch, self._time = start.epoch, start.time
        self._rows = Log(plan.path, plan.contents.rows, plan.loops, plan.shift)

    def run(self) -> ReplayResult:
        """Send what is left."""
        plan = self._plan
        for epoch in range(self._epoch, plan.epochs):
            self._epoch = epoch
            self._begin(epoch)
            loop, k = divmod(epoch, len(plan.ends))
            first = (plan.ends[k - 1] if k else 0) + loop * plan.contents.rows
            for n, stretch in enumerate(self._rows.stretches(first, plan.ends[k] + loop * plan.contents.rows)):
                if not n:
                    self._put(self._fleet.attacks(epoch, stretch.units[0].user))
                self._send(stretch)
            self._mark(EpochEnd(epoch, self._time))
            self._flush()
            self._note(epoch + 1)
        self._mark_end()
        sender = self._sender
        sent = sum(sender.events)
        self._step("over")
        if sent != plan.events:
            raise ReplayError(f"{sent:,} events are in the topic, {plan.events:,} were to be sent")
        return ReplayResult(sent, sender.batches, plan.epochs, plan.users, plan.items)

    def _begin(self, epoch: int) -> None:
        if epoch in self._sent.releases:
            release = self._sent.releases[epoch]
        else:
            self._step("deciding")
            release = self._decide(epoch - 1 if epoch else BEFORE_FIRST)
        self._mark(EpochBegin(epoch, release, self._time))
        telemetry.EPOCH.labels("replay").set(epoch)

    def _send(self, stretch: Stretch) -> None:
        there = self._sent.users  # of an earlier life
        units, at = [u for u in stretch.units if stretch.seqs[u.first] >= there.get(u.user, 0)], 0
        while at < len(units):
            self._clock.wait(units[at].due, self._idle)
            due, events, end = self._clock.reached(), 0, at
            while end < len(units) and events < TICK_EVENTS and (units[end].due <= due or end == at):
                events += units[end].end - units[end].first
                end += 1
            self._put(self._fleet.records(grouped(stretch, units[at:end], int(self._wall() * 1000))))
            at = end
            telemetry.EVENT_TIME.labels("replay").set(units[at - 1].due / 1000)
            self._step("sending")
        self._time = max(self._time, *stretch.times)

    def _put(self, records: Iterable[Sent]) -> None:
        for record in records:
            self._sender.record(*record)

    def _idle(self) -> None:
        self._sender.poll()
        self._step("paused" if self._clock.paused else "sending")

    def _mark(self, mark: Mark) -> None:
        for partition, there in enumerate(self._sent.marks):
            if (type(mark).__name__, mark.epoch) not in there:
                self._sender.mark(partition, mark)

    def _mark_end(self) -> None:
        last = self._plan.epochs - 1
        for partition, there in enumerate(self._sent.marks):
            if (EndOfLog.__name__, last) not in there:
                self._sender.mark(partition, EndOfLog(last, self._time, self._sender.events[partition]))
        self._flush()

    def _flush(self) -> None:
        self._sender.flush(lambda: self._step("sending"))

    def _note(self, epoch: int) -> None:
        sender = self._sender
        sent = sender.offsets, sender.events, sender.batches
        state = Progress(self._log_digest, epoch, self._time, *sent, dict(self._fleet.told))
        noted.save(self._folder, state, self._patience_s)

    def _step(self, doing: Literal["sending", "deciding", "paused", "over"]) -> None:
        plan = self._plan
        self._tell(Step(doing, sum(self._sender.events), plan.events, self._epoch, plan.epochs, self._time))
