"""The keyboard of a run: the space bar pauses and resumes the replay, as SIGUSR1 to it does."""

from __future__ import annotations

import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.local.supervisor import Child

_STANDARD_INPUT = 0
_AT_ONCE = 1024  # bytes


@contextmanager
def pause_on_space(child: Child, keyboard: int = _STANDARD_INPUT) -> Iterator[None]:
    """Send SIGUSR1 to `child` when the space bar is pressed; presses that come at once in pairs undo each other.

    `keyboard` is a file descriptor. Does nothing where it is no terminal.
    """
    if not os.isatty(keyboard):
        yield
        return
    before = termios.tcgetattr(keyboard)
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            ready, _, _ = select.select([keyboard], [], [], 0.2)
            if not ready:
                continue
            try:
                pressed = os.read(keyboard, _AT_ONCE)  # what sys.stdin would keep in a buffer, select can't see
            except OSError:
                return  # the terminal is gone
            if not pressed:
                return
            # a signal that is pending already is not sent twice: two for two presses could be one, or two
            if pressed.count(b" ") % 2 and child.alive and child.process:
                os.kill(child.process.pid, signal.SIGUSR1)

    tty.setcbreak(keyboard)  # Ctrl-C still interrupts
    thread = threading.Thread(target=listen, daemon=True, name="keys")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
