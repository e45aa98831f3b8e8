"""The virtual clock: the event time that a replay has reached, at any speed, with pauses."""

from __future__ import annotations

import math
import time as wall
from collections.abc import Callable

from replay.prepare.plan import TICK_S


class VirtualClock:
    """Event time that runs `speed` times as fast as wall time; with None every event is due at once.

    `tick_s` is the time between two reads of the wall clock.
    """

    def __init__(
        self,
        speed: float | None = None,
        *,
        tick_s: float = TICK_S,
        time: Callable[[], float] = wall.monotonic,
        sleep: Callable[[float], None] = wall.sleep,
    ) -> None:
        self._speed, self._tick_s, self._time, self._sleep = _checked(speed), tick_s, time, sleep
        self._event: float | None = None  # event time at the wall time below
        self._wall = 0.0
        self._due = 0.0  # event time that was last waited for
        self._paused = False

    @property
    def speed(self) -> float | None:
        """Event time over wall time; None: no limit."""
        return self._speed

    @property
    def paused(self) -> bool:
        """True while event time does not advance."""
        return self._paused

    def begin(self, event_ms: int) -> None:
        """Set event time to `event_ms`; only the first call has an effect."""
        if self._event is None:
            self._event, self._wall = event_ms, self._time()

    def reached(self) -> float:
        """Return the event time reached, ms: infinite without a speed, and -infinite before `begin`."""
        if self._event is None:
            return -math.inf
        if self._speed is None:
            return math.inf
        return self._event + (0.0 if self._paused else (self._time() - self._wall) * 1000 * self._speed)

    def set_speed(self, speed: float | None) -> None:
        """Let event time run at another speed from now on."""
        if self._event is not None and not self._paused:
            self._event = self._due if self._speed is None else self.reached()
            self._wall = self._time()
        elif self._event is not None and self._speed is None:
            self._event = self._due
        self._speed = _checked(speed)

    def advance(self, event_ms: int) -> None:
        """Set event time forward to `event_ms`, from where it goes on; it never goes back."""
        if self._speed is not None and event_ms > self.reached():
            self._event, self._wall = event_ms, self._time()

    def pause(self) -> None:
        """Stop event time."""
        if not self._paused:
            reached = self.reached()
            if self._speed is not None and self._event is not None:
                self._event = reached
            self._paused = True

    def resume(self) -> None:
        """Continue event time from where it was stopped."""
        if self._paused:
            self._wall = self._time()
            self._paused = False

    def toggle(self, *_signal: object) -> None:
        """Pause or resume; can be used as a signal handler."""
        if self._paused:
            self.resume()
        else:
            self.pause()

    def wait(self, event_ms: int, idle: Callable[[], object]) -> None:
        """Wait until `event_ms` is reached and the clock is not paused; calls `idle` once per tick until then."""
        self.begin(event_ms)
        self._due = event_ms
        while self._paused or event_ms > self.reached():
            idle()
            self._sleep(self._tick_s)


def _checked(speed: float | None) -> float | None:
    if speed is not None and not (math.isfinite(speed) and speed > 0):
        raise ValueError(f"speed must be a positive number, not {speed}")
    return speed
