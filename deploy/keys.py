"""The keyboard of a run: the space bar pauses and resumes the replay, as SIGUSR1 to it does."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.stack import Child


@contextmanager
def pause_on_space(child: Child) -> Iterator[None]:
    """Send SIGUSR1 to `child` at every press of the space bar. Does nothing where there is no terminal."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            ready, _, _ = select.select([sys.stdin], [], [], 0.2)
            if ready and sys.stdin.read(1) == " " and child.alive and child.process:
                os.kill(child.process.pid, signal.SIGUSR1)

    tty.setcbreak(sys.stdin)  # Ctrl-C still interrupts
    thread = threading.Thread(target=listen, daemon=True, name="keys")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
