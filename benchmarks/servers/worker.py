"""A Faust worker as a process of its own, and waiting for a condition."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from streams.settings import Settings

PATIENCE_S = 300.0


class Process:
    """A worker process of a role, its log in the state folder. As a context it is killed at the end."""

    def __init__(self, settings: Settings, role: str) -> None:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        self.log = settings.state_dir / f"{role}-{uuid.uuid4().hex[:6]}.log"
        command = [sys.executable, "-m", "faust", "-A", f"streams.{role}", "worker", "--without-web", "-l", "info"]
        environment = {**os.environ, **settings.environment(), "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=Path(__file__).parents[2], stdout=log, stderr=log
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.send(signal.SIGKILL)
        self._process.wait(30)

    def send(self, which: signal.Signals) -> None:
        """Send a signal; nothing happens if the process is gone."""
        with suppress(ProcessLookupError):
            self._process.send_signal(which)

    def exit_code(self) -> int:
        """Wait for the end of the process and return its exit code."""
        return self._process.wait(PATIENCE_S)

    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def times_ready(self) -> int:
        """Return how often it received partitions and restored them."""
        return self.log.read_text().count("Worker ready")

    def copied(self) -> list[int]:
        """Return the number of rows that it took from its copy, per partition."""
        return [int(found) for found in re.findall(r"(\d+) rows from the copy", self.log.read_text())]

    def until_ready(self) -> None:
        """Wait until it has its partitions."""
        wait_for(lambda: self.times_ready() or not self.alive(), f"{self.log} to be ready")
        assert self.alive(), self.log.read_text()


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until `condition` holds."""
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until, f"waited {patience_s} s for {what}"
        time.sleep(0.02)
