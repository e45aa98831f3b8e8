"""The space bar of a run pauses and resumes the replay, as SIGUSR1 to its process does."""

from __future__ import annotations

import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.local.child_process import Child

_STANDARD_INPUT = 0
_READ_BYTES = 1024


@contextmanager
def pause_on_space(child: Child, keyboard: int = _STANDARD_INPUT) -> Iterator[None]:
    """Send SIGUSR1 to `child` when the space bar is pressed; two presses that are read together cancel out.

    `keyboard` is a file descriptor. Does nothing if it is no terminal.
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
                pressed = os.read(keyboard, _READ_BYTES)  # not sys.stdin: select can't see what it buffers
            except OSError:
                return  # the terminal is gone
            if not pressed:
                return
            # a pending signal is not queued twice: two signals may arrive as one
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
