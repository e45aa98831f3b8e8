"""Keep the tests of `make test` in one process: no child process and no listening socket without the mark `process`."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import urllib3  # noqa: F401 - binds a socket when it is first imported, to find out about IPv6: before any test

_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"}
_LISTENS = {"socket.bind"}
_refusing = False


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Fail the running test at a call that it may not make. An audit hook: Python calls it before such a call."""
    if _refusing and event in _STARTS | _LISTENS:
        pytest.fail(f"{event} {arguments!r:.200}: mark this test with pytest.mark.process")


sys.addaudithook(_refuse)


@contextmanager
def refused(*, unless: bool) -> Iterator[None]:
    """Refuse processes and listening sockets inside of this context, unless `unless`."""
    global _refusing  # noqa: PLW0603 - audit hooks are for good: this switches the only one
    before, _refusing = _refusing, not unless
    ended = _page_faults_of_children()
    try:
        yield
    finally:
        _refusing = before
    if not unless and _page_faults_of_children() != ended:  # one that Python does not announce: spawn, or a library's
        pytest.fail("a child process ended: mark this test with pytest.mark.process")


def _page_faults_of_children() -> int:
    """Return a number that changes whenever a child process has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt


def processes_and_listeners() -> list[str]:
    """Return this process's children and listening sockets, those of libraries in C included."""
    this = psutil.Process(os.getpid())
    listening = [c for c in this.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    return [repr(found) for found in (*this.children(), *listening)]
