"""Ctrl-C and SIGTERM to a run, heard whenever they come.

Python drops an exception that a signal's handler raises while a process is being started (in the hooks around fork), so
it is noted as well.
"""

from __future__ import annotations

import signal
from typing import Any


class Interrupts:
    """Raises KeyboardInterrupt at a signal, and again at the next `check` where that was dropped."""

    def __init__(self) -> None:
        self._asked = False

    def install(self) -> None:
        """Begin to listen, also where they are ignored, as in a shell's background jobs."""
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, self._hear)

    def check(self) -> None:
        """Raise KeyboardInterrupt where a signal came."""
        if self._asked:
            raise KeyboardInterrupt

    def _hear(self, *_: Any) -> None:
        self._asked = True
        raise KeyboardInterrupt
