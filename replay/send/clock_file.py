"""The file by which another process pauses a replay, sets its speed and lets it skip to an event time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from replay.json_file import write_json
from replay.send.virtual_clock import VirtualClock
from streams.process import telemetry
from streams.records import LATEST

log = logging.getLogger(__name__)

_NAME = "clock.json"


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wanted state of a replay."""

    paused: bool = False
    speed: Annotated[float, Meta(ge=0, le=1e12)] | None = None  # 0: as fast as possible; None: as it was started
    skip_to: Annotated[int, Meta(ge=0, lt=LATEST)] = 0  # event time, ms: events before it are sent without waiting


class ClockFile:
    """The file in the folder of a replay's progress."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME

    def read(self) -> Wanted:
        """Return what is wanted; the defaults without a file, or with a damaged one."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Wanted)
        except FileNotFoundError:
            return Wanted()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s is ignored: %s", self._path, error)
            return Wanted()

    def write(self, wanted: Wanted) -> None:
        """Replace what is wanted."""
        self._path.parent.mkdir(parents=True, exist_ok=True)  # the replay may not have begun
        write_json(self._path, wanted)

    def control(self, clock: VirtualClock, rate: float | None) -> Callable[[], int]:
        """Return a function that sets `clock` as the file says, if it was written since the last call.

        It returns the event time up to which events are to be sent without waiting.

        `rate`: events per second, if these and not event time set the pace; speeds are then such rates.
        """
        started, unit, times = clock.speed, "events_per_second" if rate else "event_time", rate or 1.0
        applied = skip_to = 0

        def apply() -> int:
            nonlocal applied, skip_to
            with suppress(OSError):
                written = self._path.stat().st_mtime_ns
                if written != applied:
                    applied, wanted = written, self.read()
                    _set(clock, wanted, started, times)
                    skip_to = wanted.skip_to
            telemetry.REPLAY_PAUSED.set(clock.paused)
            telemetry.REPLAY_SPEED.labels(unit).set((clock.speed or 0) * times)
            return skip_to

        return apply


def _set(clock: VirtualClock, wanted: Wanted, started: float | None, times: float) -> None:
    clock.set_speed(started if wanted.speed is None else wanted.speed / times or None)
    if wanted.paused:
        clock.pause()
    else:
        clock.resume()
