"""The preloader of a run: a process that has imported all modules of the run's processes, and forks one per request.

The imports, of torch above all, cost 2 to 3 CPU seconds a process; a fork costs milliseconds, and shares their memory.
A request is a line of JSON on the socket that the run passed; the new process answers with its pid when it is set up.
It is forked twice, so that the run, which is a subreaper, adopts it: then it is a child of the run like any other.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from runpy import run_module
from typing import TypedDict

from deploy.local.child_process import die_with_parent


class Request(TypedDict):
    """A process to fork: its command `PYTHON -m MODULE ARGUMENTS`, its environment, its log, and the run's pid."""

    command: list[str]
    environment: dict[str, str]
    log: str
    run: int


def serve(channel: socket.socket) -> Request:
    """Fork a process per request. Returns its request in the new process; the preloader ends when the run does."""
    with channel, channel.makefile("rb") as lines:
        for line in lines:
            between = os.fork()
            if between == 0:
                if os.fork():
                    os._exit(0)
                request: Request = json.loads(line)
                _set_up(request, parent=os.getppid())
                channel.sendall(b"%d\n" % os.getpid())
                return request
            os.waitpid(between, 0)
    os._exit(0)


def _set_up(request: Request, parent: int) -> None:
    """Give this forked process the session, streams, environment and command that `Child` gives to a started one."""
    os.setsid()
    while (now := os.getppid()) != request["run"]:
        if now != parent:
            os._exit(1)  # the run is gone
        time.sleep(0.0005)
    die_with_parent()
    if os.getppid() != request["run"]:
        os._exit(1)  # the run ended before the kernel knew that this process ends with it
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    _show(request["command"])


def _show(command: Sequence[str]) -> None:
    """Let `ps` show `command`: overwrite the process's arguments at the address that the kernel reports."""
    of_stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(of_stat[45]), int(of_stat[46])
    shown = b"".join(os.fsencode(word) + b"\0" for word in command)
    if 0 < start < end:
        ctypes.memmove(start, shown[: end - start - 1].ljust(end - start, b"\0"), end - start)


def main() -> None:
    """Import, serve requests, and go on as the command that a request names."""
    channel, *modules = sys.argv[1:]
    for name in modules:
        import_module(name)
    gc.collect()
    gc.freeze()  # a collection must not write to the pages that all processes share
    _, _, module, *arguments = serve(socket.socket(fileno=int(channel)))["command"]
    sys.argv = [module, *arguments]
    run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
