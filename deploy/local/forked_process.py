"""Processes that the preloader forks for a run, and the run's client of the preloader."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self

from deploy.local.child_process import die_with_parent

if TYPE_CHECKING:
    from deploy.local.preloader import Request

# importing these starts no lasting thread (as pyarrow does), and creates no event loop, app, engine or client
MODULES = (
    *("deploy.cli.errors", "deploy.cli.main", "deploy.cli.processes", "deploy.cli.replay", "deploy.runs"),
    *("replay.send.clock_file", "replay.send.epoch_barrier"),
    *("streams.cloud.batch", "streams.device.batch", "streams.faust_runtime.worker"),
    *("streams.coordinator.coordinator", "streams.learner.learner", "streams.recorder.recorder", "streams.retrain.job"),
    # what these import only when they start, or take their first step
    *("faust.assignor.leader_assignor", "faust.assignor.partition_assignor", "faust.events", "faust.tables.objects"),
    *("faust.tables.sets", "faust.topics", "faust.worker", "encodings.idna", "sqlite3"),
)
_PR_SET_CHILD_SUBREAPER = 36
_REQUEST_TIMEOUT_S = 120.0  # the first request waits for the imports
_LOOK_S = 0.01

# threads that wait must not spin: the processes share the cores, and a spinning one starves the others
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def preloading() -> AbstractContextManager[Preloader | None]:
    """Return a preloader; None without Linux, where a process that has loaded such libraries can't be forked safely."""
    return Preloader() if sys.platform == "linux" else nullcontext()


class Forked:
    """A forked process, with the part of the interface of `subprocess.Popen` that `Child` uses. Thread-safe."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(_LOOK_S)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _adopt_orphans(yes: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, yes, 0, 0, 0)


class Preloader:
    """Starts the preloader process and requests forked processes from it. A context whose end kills the preloader."""

    def __init__(self, modules: Sequence[str] = MODULES) -> None:
        """The preloader imports `modules`; their names make its arguments long enough to show a forked command."""
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(_REQUEST_TIMEOUT_S)
        self._answers = self._channel.makefile("rb")
        with theirs:
            command = [sys.executable, "-m", "deploy.local.preloader", str(theirs.fileno()), *modules]
            self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                env=os.environ | ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call of libc, no Python lock is taken
            )
        _adopt_orphans(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._channel.close()
        self._process.kill()
        self._process.wait()
        _adopt_orphans(0)

    @property
    def alive(self) -> bool:
        """True while it runs. Once it has ended, this leaves no zombie."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the preloader."""
        return self._process.pid

    def fork(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Forked | None:
        """Return a new process with a command `PYTHON -m MODULE ...`; None if the preloader has ended.

        It is ended if it does not answer.
        """
        if not self.alive:
            return None
        request: Request = {
            "command": list(command),
            "environment": dict(environment),
            "log": str(log),
            "run": os.getpid(),
        }
        try:
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            return Forked(int(self._answers.readline()))
        except (OSError, ValueError):
            self._process.kill()
            self._process.wait()
        except BaseException:
            self._process.kill()
            raise
        return None
