"""The space bar of a run, on a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.servers.worker import wait_for
from deploy.local.child_process import Child
from deploy.local.pause_key import pause_on_space

pytestmark = pytest.mark.process
COUNTS = """
import signal, sys
presses = 0
def count(*_):
    global presses
    presses += 1
    print(presses, flush=True)
signal.signal(signal.SIGUSR1, count)
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    """A process that logs how many SIGUSR1 it got, each on a line."""
    child = Child("c", [sys.executable, "-c", COUNTS], os.environ, tmp_path / "log")
    child.start()
    wait_for(lambda: child.log.read_text() == "ready\n", "the child")
    yield child
    child.kill()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The end at which keys are pressed, and the one where they are read."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def got(child: Child) -> int:
    return len(child.log.read_text().splitlines()) - 1


def all_read(keyboard: int) -> bool:
    return not select.select([keyboard], [], [], 0)[0]


def test_a_press_pauses_and_the_next_one_resumes(child: Child, terminal: tuple[int, int]) -> None:
    finger, keyboard = terminal
    with pause_on_space(child, keyboard):
        for presses in (1, 2, 3):
            os.write(finger, b"x y")
            wait_for(lambda presses=presses: got(child) == presses, "a signal")  # type: ignore[misc]


@pytest.mark.parametrize("presses", [2, 3])
def test_presses_at_once_leave_the_replay_as_that_many_would(
    child: Child, terminal: tuple[int, int], presses: int
) -> None:
    finger, keyboard = terminal
    with pause_on_space(child, keyboard):
        os.write(finger, presses * b" ")
        wait_for(lambda: all_read(keyboard), "the keys to be read")
    odd = presses % 2
    wait_for(lambda: got(child) >= odd, "the one that has no other")
    with pause_on_space(child, keyboard):
        os.write(finger, b" ")
        wait_for(lambda: got(child) > odd, "the last press")
    assert child.process is not None
    child.process.terminate()  # after all signals before it
    child.process.wait(20)
    assert got(child) == odd + 1


def test_without_a_terminal_nothing_is_read(child: Child) -> None:
    reading, writing = os.pipe()
    os.write(writing, b" ")
    with pause_on_space(child, reading):
        pass
    assert os.read(reading, 1) == b" "
    os.close(reading)
    os.close(writing)
