"""The file by which another process pauses a replay, sets its speed and lets it skip to an event time."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from replay.json_file import write_json
from replay.send.virtual_clock import VirtualClock
from streams.process import telemetry
from streams.records import LATEST

log = logging.getLogger(__name__)

_NAME = "clock.json"

Speed = Annotated[float, Meta(ge=0, le=1e12)]
EventTime = Annotated[int, Meta(ge=0, lt=LATEST)]  # ms


class ReplayControl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The requested state of a replay."""

    paused: bool = False
    speed: Speed | None = None  # 0: as fast as possible; None: the initial speed
    skip_to: EventTime = 0  # earlier events are sent without waiting


class ReplayChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a ReplayControl that are requested anew; the others stay."""

    paused: bool | UnsetType = UNSET
    speed: Speed | UnsetType | None = UNSET
    skip_to: EventTime | UnsetType = UNSET


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

    def change(self, change: ReplayChange) -> ReplayControl:
        """Change the requested fields of the file's content and return the result. Other processes wait meanwhile."""
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True)  # the replay may not have begun
        held = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            fields = msgspec.structs.asdict(change).items()
            control = msgspec.structs.replace(self.read(), **{name: to for name, to in fields if to is not UNSET})
            write_json(self._path, control)
        finally:
            os.close(held)
        return control

    def control(self, clock: VirtualClock, rate: float | None) -> Callable[[], int]:
        """Return a function that applies the file to `clock` if it was written since the last call.

        The function returns the event time, ms, up to which events are sent without waiting. `rate`: events per second
        if the pace is set by a rate and not by event time; speeds in the file are then such rates.
        """
        initial, unit, scale = clock.speed, "events_per_second" if rate else "event_time", rate or 1.0
        applied, skip_to = (0, 0), 0  # the file that was applied last, and event time in ms

        def apply() -> int:
            nonlocal applied, skip_to
            with suppress(OSError):
                file = self._path.stat()
                if (file.st_ino, file.st_mtime_ns) != applied:  # two writes may have one time
                    applied, control = (file.st_ino, file.st_mtime_ns), self.read()
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
