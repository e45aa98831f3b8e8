"""Whether this process is alive and ready, for whoever looks after it: `/healthz` and `/readyz` beside `/metrics`.

A worker can go silent without dying, and a busy one is not stuck: unhealthy is who has something to do and has not
got on with it for `STUCK_AFTER_S`. Ready is who has its state and a whole release, and says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STUCK_AFTER_S = 20.0


class Health:
    """What a process says of itself. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._moved = clock()
        self._lag = 0
        self._busy = 0
        self._missing: dict[str, str] = {"start": "starting"}

    def progress(self) -> None:
        """Something was got done."""
        with self._lock:
            self._moved = self._clock()

    def behind(self, lag: int) -> None:
        """So many records are known to wait for this process; 0: nothing is to be done."""
        with self._lock:
            if not (lag and self._lag):
                self._moved = self._clock()  # nothing waited until now
            self._lag = lag

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around what may take long and must not count as stuck: a training, or waiting for another process."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                self._moved = self._clock()

    def needs(self, what: str, reason: str = "") -> None:
        """Say that `what` is still missing, and why; without a reason it is there."""
        with self._lock:
            self._missing.pop("start", None)
            if reason:
                self._missing[what] = reason
            else:
                self._missing.pop(what, None)

    def stuck(self) -> str:
        """Why this process is unhealthy; empty where it is well."""
        with self._lock:
            still = self._clock() - self._moved
            if self._lag and not self._busy and still > STUCK_AFTER_S:
                return f"{self._lag} records wait and nothing was done for {still:.0f} s"
            return ""

    def missing(self) -> str:
        """What this process still waits for before it is ready; empty where it is ready."""
        with self._lock:
            return "; ".join(self._missing.values())


HEALTH = Health()  # of this process
