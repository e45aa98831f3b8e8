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


class ReplayControl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The requested state of a replay."""

    paused: bool = False
    speed: Annotated[float, Meta(ge=0, le=1e12)] | None = None  # 0: as fast as possible; None: the initial speed
    skip_to: Annotated[int, Meta(ge=0, lt=LATEST)] = 0  # event time, ms: earlier events are sent without waiting


class ClockFile:
    """The file in the folder of a replay's progress."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME

    def read(self) -> ReplayControl:
        """Return the file's content; the defaults if there is no file or it is damaged."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=ReplayControl)
        except FileNotFoundError:
            return ReplayControl()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s is ignored: %s", self._path, error)
            return ReplayControl()

    def write(self, control: ReplayControl) -> None:
        """Replace the file's content."""
        self._path.parent.mkdir(parents=True, exist_ok=True)  # the replay may not have begun
        write_json(self._path, control)

    def control(self, clock: VirtualClock, rate: float | None) -> Callable[[], int]:
        """Return a function that applies the file to `clock` if it was written since the last call.

        The function returns the event time, ms, up to which events are sent without waiting. `rate`: events per second
        if the pace is set by a rate and not by event time; speeds in the file are then such rates.
        """
        initial, unit, scale = clock.speed, "events_per_second" if rate else "event_time", rate or 1.0
        applied_ns = skip_to = 0  # time of change of the file as last applied, and event time in ms

        def apply() -> int:
            nonlocal applied_ns, skip_to
            with suppress(OSError):
                written_ns = self._path.stat().st_mtime_ns
                if written_ns != applied_ns:
                    applied_ns, control = written_ns, self.read()
                    _set(clock, control, initial, scale)
                    skip_to = control.skip_to
            telemetry.REPLAY_PAUSED.set(clock.paused)
            telemetry.REPLAY_SPEED.labels(unit).set((clock.speed or 0) * scale)
            return skip_to

        return apply


def _set(clock: VirtualClock, control: ReplayControl, initial: float | None, scale: float) -> None:
    clock.set_speed(initial if control.speed is None else control.speed / scale or None)
    if control.paused:
        clock.pause()
    else:
        clock.resume()
