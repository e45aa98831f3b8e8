"""Reliable handling of Ctrl-C and SIGTERM in a run.

Python drops an exception that a signal handler raises while a process is being started (in the hooks around fork), so
the signal is remembered as well.
"""

from __future__ import annotations

import signal


class Interrupts:
    """Raises KeyboardInterrupt at a signal, and again at the next `check` in case the first one was dropped."""

    def __init__(self) -> None:
        self._received = False

    def install(self) -> None:
        """Handle both signals from now on, even if they were ignored, as in background jobs of a shell."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal was received."""
        if self._received:
            raise KeyboardInterrupt

    def _handle(self, *_: object) -> None:
        self._received = True
        raise KeyboardInterrupt
