"""A race: one contender from the beginning of the topics to their end, as a child process."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks.device import stopwatch
from benchmarks.device.stopwatch import WARM_UP, Pace
from deploy.local.child_process import Child
from streams.settings import Settings

_LOOK_S = 0.1
_TIMEOUT_S = 15.0  # after the warm-up; a contender that is not done by then is measured by the events that it handled
_STALLED_S = 5.0  # without progress: the missing events will not come
_START_S = 120.0  # until the warm-up is over


class RaceError(RuntimeError):
    """A contender did not run."""


def race(which: str, settings: Settings, total: int) -> Pace:
    """Let a contender read the run's `total` events, or as many as it can in time. Raises RaceError with its log."""
    folder = Path(settings.state_dir)
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / f"{which}.txt"
    # waiting threads must not spin: the broker needs the other core
    environment = os.environ | settings.environment() | {"OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "benchmarks.device.contender", which, str(notes)]
    child = Child(which, command, environment, folder / f"{which}.log")
    child.start()
    try:
        _until_done(child, notes, total)
    finally:
        _stop(child)
    return stopwatch.pace(notes, total)


def _until_done(child: Child, notes: Path, total: int) -> None:
    started = moved = time.monotonic()
    warm: float | None = None  # when its clock started
    done = 0
    while done < total:
        if not child.alive:
            raise RaceError(f"{child.name} ended; its log:\n{child.tail(40)}")
        time.sleep(_LOOK_S)
        now, before, done = time.monotonic(), done, stopwatch.applied(notes)
        if done > before:
            moved = now
        if warm is None and done >= WARM_UP * total:
            warm = now
        if warm is None and now - started > _START_S:
            raise RaceError(f"{child.name} did {done} events in {_START_S:.0f} s; its log:\n{child.tail(40)}")
        if warm is not None and (now - warm > _TIMEOUT_S or now - moved > _STALLED_S):
            return


def _stop(child: Child) -> None:
    """Kill the process: its output is thrown away, and a clean end can take long."""
    if child.process is not None:
        child.process.kill()
        child.process.wait()
