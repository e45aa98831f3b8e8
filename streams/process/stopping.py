"""Stopping cleanly: SIGTERM and SIGINT set an event that every loop looks at and every wait wakes up on."""

from __future__ import annotations

import signal
import threading


def stop_on_signals() -> threading.Event:
    """Return the event that SIGTERM and SIGINT set from now on. To be called in the main thread."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
