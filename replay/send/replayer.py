"""The replayer: sends a prepared log at the pace of a clock, each epoch between its epoch markers."""

from __future__ import annotations

import hashlib
import time as wall
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from replay.prepare.plan import Plan
from replay.send import progress as progress_file
from replay.send.batching import grouped
from replay.send.epoch_barrier import BEFORE_FIRST, Decide, free
from replay.send.fault_injection import FaultInjection
from replay.send.producer import Sender
from replay.send.progress import Progress, ReplayError
from replay.send.sorted_log import ImpressionGroup, LogSlice, SortedLog
from replay.send.virtual_clock import VirtualClock
from streams.process import telemetry
from streams.records import EndOfLog, EpochBegin, EpochEnd, EpochMarker
from streams.settings import Settings

TICK_EVENTS = 4000  # maximum number of events sent between two reads of the clock: about an envelope per partition


@dataclass(frozen=True)
class ReplayResult:
    """The totals of a replay, including those before a restart."""

    events_sent: int
    batches: int


def send(
    settings: Settings,
    plan: Plan,
    *,
    decide: Decide = free,
    clock: VirtualClock | None = None,
    control: Callable[[], int] = lambda: 0,
    wall_time: Callable[[], float] = wall.time,
) -> ReplayResult:
    """Send a prepared log; continues a replay that was stopped. Raises ReplayError.

    `decide(k)` returns the release with which epoch k + 1 begins, after epoch k has ended (-1: before the first one):
    see `epoch_barrier.lockstep`. `control` is called all the time: it may change the clock, and returns the event time
    (ms) up to which events are sent without waiting for it. `settings` must name the exposure policy and the faults of
    the plan: results depend on them.
    """
    if settings.exposures != plan.policy:
        raise ReplayError(f"the settings say exposures={settings.exposures}, the log was read with {plan.policy}")
    if settings.faults != str(plan.faults):
        raise ReplayError(f"the settings say faults={settings.faults!r}, the log was read with {str(plan.faults)!r}")
    return _Replay(settings, plan, decide, clock or VirtualClock(), control, wall_time).run()


def digest(plan: Plan) -> str:
    """Return a hash of the rows and the epochs of a plan."""
    text = repr((plan.source, plan.policy, plan.contents, plan.ends, plan.loops, str(plan.faults), plan.seed))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Replay:
    """A replay from the start of its process to the end of the log."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        decide: Decide,
        clock: VirtualClock,
        control: Callable[[], int],
        wall_time: Callable[[], float],
    ) -> None:
        self._plan, self._decide, self._clock, self._wall = plan, decide, clock, wall_time
        self._control = control
        self._folder, self._patience_s = Path(settings.state_dir), settings.patience_s
        self._log_digest = digest(plan)
        self._folder.mkdir(parents=True, exist_ok=True)
        known = progress_file.load(self._folder, self._log_digest)
        self._faults = FaultInjection(plan.faults, plan.seed, known.fault_counts if known else None)
        self._sent = progress_file.read_back(settings, known, self._log_digest, self._faults.hostile_users)
        start = self._sent.progress
        if known is None:
            progress_file.save(self._folder, start, settings.patience_s)
        self._sender = Sender(settings, start.offsets, start.events, start.batches)
        self._epoch, self._time = start.epoch, start.time
        self._skip_to = 0  # event time, ms
        self._passed = 0  # events that this process has given to the sender
        self._log = SortedLog(plan.path, plan.contents.rows, plan.loops, plan.shift)

    def run(self) -> ReplayResult:
        """Send everything that is not in the topic yet."""
        plan = self._plan
        for epoch in range(self._epoch, plan.epochs):
            self._epoch = epoch
            self._begin(epoch)
            loop, k = divmod(epoch, len(plan.ends))
            first = (plan.ends[k - 1] if k else 0) + loop * plan.contents.rows
            for n, rows in enumerate(self._log.slices(first, plan.ends[k] + loop * plan.contents.rows)):
                if not n:
                    self._sender.records(self._faults.attacks(epoch, rows.groups[0].user))
                self._send(rows)
            self._send_marker(EpochEnd(epoch, self._time))
            self._sender.flush()
            self._save_progress(epoch + 1)
        self._end_log()
        sender = self._sender
        sent = sum(sender.events)
        if sent != plan.events:
            raise ReplayError(f"{sent:,} events are in the topic, {plan.events:,} should be")
        return ReplayResult(sent, sender.batches)

    def _begin(self, epoch: int) -> None:
        if epoch in self._sent.releases:
            release = self._sent.releases[epoch]
        else:
            release = self._decide(epoch - 1 if epoch else BEFORE_FIRST)
        self._send_marker(EpochBegin(epoch, release, self._time))
        telemetry.EPOCH.labels("replay").set(epoch)

    def _send(self, rows: LogSlice) -> None:
        sent = self._sent.users  # by earlier processes
        groups, start = [g for g in rows.groups if rows.seqs[g.first] >= sent.get(g.user, 0)], 0
        while start < len(groups):
            self._wait(groups[start])
            reached, events, end = self._clock.reached(), 0, start
            while (
                end < len(groups)
                and events < TICK_EVENTS
                and (end == start or groups[end].due < self._skip_to or self._due(groups[end], events) <= reached)
            ):
                events += groups[end].end - groups[end].first
                end += 1
            self._passed += events
            self._skip(groups[end - 1])
            batches = grouped(rows, groups[start:end], int(self._wall() * 1000))
            self._sender.records(self._faults.records(batches))
            start = end
            telemetry.EVENT_TIME.labels("replay").set(groups[start - 1].due / 1000)
        self._time = max(self._time, *rows.times)

    def _due(self, group: ImpressionGroup, ahead: int) -> int:
        """Return the clock's time at which a group is sent: its due time or, with a rate, the time of its first event.

        `ahead` events are sent before it in the same tick.
        """
        rate = self._plan.rate
        return group.due if rate is None else int((self._passed + ahead) * 1000 / rate)

    def _wait(self, group: ImpressionGroup) -> None:
        """Wait until a group is due, or is before the event time to skip to."""

        def look() -> None:
            self._skip_to = self._control()
            self._skip(group)

        def idle() -> None:
            look()
            self._sender.poll()

        look()
        self._clock.wait(self._due(group, 0), idle)

    def _skip(self, group: ImpressionGroup) -> None:
        if group.due < self._skip_to:
            self._clock.advance(self._due(group, 0))

    def _send_marker(self, marker: EpochMarker) -> None:
        for partition, sent in enumerate(self._sent.markers):
            if (type(marker).__name__, marker.epoch) not in sent:
                self._sender.marker(partition, marker)

    def _end_log(self) -> None:
        last = self._plan.epochs - 1
        for partition, sent in enumerate(self._sent.markers):
            if (EndOfLog.__name__, last) not in sent:
                self._sender.marker(partition, EndOfLog(last, self._time, self._sender.events[partition]))
        self._sender.flush()

    def _save_progress(self, epoch: int) -> None:
        sender = self._sender
        sent = sender.offsets, sender.events, sender.batches
        state = Progress(self._log_digest, epoch, self._time, *sent, dict(self._faults.counts))
        progress_file.save(self._folder, state, self._patience_s)
