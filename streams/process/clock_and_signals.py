"""The wall clock and the signals of a process.

The wall clock is for leases, expiry and the times of recording; it never decides a result.
"""

from __future__ import annotations

import signal
import threading
import time


def wall_ms() -> int:
    """Return the wall clock in ms since 1970."""
    return time.time_ns() // 1_000_000


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set from now on. Call this in the main thread."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
