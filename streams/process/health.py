"""Liveness and readiness of this process, served at `/healthz` and `/readyz` next to `/metrics`.

Unhealthy: records or a call are pending and there was no progress for `STUCK_AFTER_S`. Ready: the process has its state
and a complete release, and has reported that.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)
STUCK_AFTER_S = 20.0


class Health:
    """Liveness and readiness of a process. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._moved = clock()
        self._lag = 0
        self._calls = 0
        self._busy = 0
        self._missing: dict[str, str] = {"start": "starting"}

    def progress(self) -> None:
        """Note that work was done."""
        with self._lock:
            self._moved = self._clock()

    def set_lag(self, lag: int) -> None:
        """Note how many records wait for this process; 0 if there is nothing to do."""
        with self._lock:
            if not (lag and self._lag):
                self._moved = self._clock()  # nothing was pending until now
            self._lag = lag

    @contextmanager
    def pending(self) -> Iterator[None]:
        """Wrap work that has to end or to make progress, such as calls of the database, also if no record waits."""
        with self._lock:
            if not (self._lag or self._calls):
                self._moved = self._clock()  # nothing was pending until now
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Wrap long work that is not to count as stuck, such as a training or a wait for another process."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                self._moved = self._clock()

    def needs(self, what: str, reason: str = "") -> None:
        """Note that `what` is missing, and why, so that the process is not ready; without a reason: it is available."""
        with self._lock:
            self._missing.pop("start", None)
            if reason:
                self._missing[what] = reason
            else:
                self._missing.pop(what, None)

    def stuck(self) -> str:
        """Return why this process is unhealthy; empty if it is healthy."""
        with self._lock:
            still = self._clock() - self._moved
            if (self._lag or self._calls) and not self._busy and still > STUCK_AFTER_S:
                waits = f"{self._lag} records are" if self._lag else "a call is"
                return f"{waits} pending and there was no progress for {still:.0f} s"
            return ""

    def missing(self) -> str:
        """Return what this process waits for before it is ready; empty if it is ready."""
        with self._lock:
            return "; ".join(self._missing.values())


def end_if_stuck(health: Health, after_s: float) -> None:
    """End this process with exit code 70 once it has been unhealthy for `after_s` seconds: a supervisor restarts it.

    Docker restarts a container that ends, not one whose health check fails.
    """

    def watch() -> None:
        since: float | None = None
        while since is None or time.monotonic() - since < after_s:
            time.sleep(min(1.0, after_s / 4))
            since = (since or time.monotonic()) if health.stuck() else None
        log.error("%s: exiting, so that the supervisor restarts this process", health.stuck())
        os._exit(os.EX_SOFTWARE)  # a stuck thread would keep sys.exit from ending it

    threading.Thread(target=watch, name="watchdog", daemon=True).start()


HEALTH = Health()  # of this process
