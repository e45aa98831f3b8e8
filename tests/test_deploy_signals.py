from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process
WAITING = """
import os, signal, time
from deploy.local.signals import Interrupts
Interrupts().install()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(30)
"""
FORKING = """
import os, signal, subprocess, sys
from deploy.local.signals import Interrupts
interrupts = Interrupts()
interrupts.install()
os.register_at_fork(before=lambda: signal.raise_signal(signal.{which}))
subprocess.run([sys.executable, "-c", ""], preexec_fn=lambda: None)
print("dropped", flush=True)
try:
    interrupts.check()
except KeyboardInterrupt:
    print("heard")
"""


@pytest.mark.parametrize("which", ["SIGINT", "SIGTERM"])
def test_a_signal_that_comes_while_a_process_is_being_started_is_heard(which: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING.format(which=which)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["dropped", "heard"]


def test_a_signal_interrupts_at_once_where_it_is_not_dropped() -> None:
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=20, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode == -signal.SIGINT
