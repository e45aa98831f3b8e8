"""A child process of a local run: start, stop, memory, metrics and log."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from deploy.local import loopback

if TYPE_CHECKING:
    from deploy.local.forked_process import Forked, Preloader

STOP_S = 15.0  # from SIGTERM to SIGKILL

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
_SCRAPE_S = 2.0  # the longest wait for /metrics
_AUTOGROUP_ATTEMPTS = 5


class ChildError(RuntimeError):
    """A child process died and is not restarted again; the message holds the end of its log."""


def die_with_parent() -> None:
    """Ask the kernel to stop this child when its parent is killed: no orphan holds a port or a database."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _be_nice(pid: int, niceness: int) -> None:
    """Add to the niceness of a new process that leads its session, before it has threads, which would keep theirs.

    Linux may share the processor among sessions (autogroup): then the niceness of the session counts.
    """
    with suppress(OSError):  # it has already ended, or there are no autogroups
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)  # up to the maximum
        for _ in range(_AUTOGROUP_ATTEMPTS):
            try:
                Path(f"/proc/{pid}/autogroup").write_text(str(niceness))
            except BlockingIOError:  # without privileges one change per .1 s is allowed
                time.sleep(0.1)
            else:
                return


@dataclass
class Child:
    """A process: its command, its log, and its measurements."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    metrics_port: int = 0
    restart: bool = True  # False: it is not restarted after it has exited by itself, only after it was killed
    must_live: bool = False  # its death ends the run
    niceness: int = 0  # in addition to that of this process, as of nice(1)
    preloader: Preloader | None = None  # forks the process; None: it is started as a program
    process: subprocess.Popen[bytes] | Forked | None = None
    started: float = 0.0
    deaths: int = 0
    deaths_in_a_row: int = 0
    samples: dict[str, float] = field(default_factory=dict)
    ended: float = math.inf  # time at which its exit with code 0 was first seen

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the process, appending to its log."""
        forked = self.preloader and self.preloader.fork(self.command, self.environment, self.log)
        self.process = forked or self._popen()
        if self.niceness:
            _be_nice(self.process.pid, self.niceness)
        self.started, self.ended = time.monotonic(), math.inf

    def _popen(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command, no shell
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must not reach the children: the supervisor stops them in order
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call of libc, no Python lock is taken
            )

    def terminate(self) -> None:
        """Send SIGTERM, without waiting."""
        if self.process is not None and self.alive:
            self.process.terminate()

    def stop(self, seconds: float = STOP_S) -> None:
        """Stop the process: SIGTERM, then SIGKILL after `seconds`."""
        if self.process is not None and self.alive:
            self.process.terminate()
            self.wait(seconds)

    def wait(self, seconds: float) -> None:
        """Wait until the process has ended; after `seconds` kill it."""
        assert self.process is not None
        try:
            self.process.wait(max(seconds, 0.01))
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def note(self, sentence: str) -> None:
        """Append a line of the supervisor to the log of the process."""
        with suppress(OSError), self.log.open("a") as log:  # the disk may be full
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {sentence}\n")

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def scrape(self) -> bool:
        """Read /metrics into `samples`, without the labels `run` and `role`.

        Return False, and keep the older samples, if the process does not answer.
        """
        try:
            text = loopback.get(self.metrics_port, "/metrics", _SCRAPE_S)
        except OSError:
            return False
        self.samples |= parsed(text)
        return True


def parsed(text: str) -> dict[str, float]:
    """Return the samples of a page of metrics by name and labels, without the labels `run` and `role`.

    Raises ValueError if it is none.
    """
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = sorted((k, v) for k, v in sample.labels.items() if k not in ("run", "role"))
            labels = ",".join(f'{k}="{v}"' for k, v in own)
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples
