"""Asking the processes of a stack whether they are well: `/healthz` of each, once a second, from threads.

All are asked at once: one after the other, a few that are slow would make the next ones look silent.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_EVERY_S = 1.0
_PATIENCE_S = 1.0  # of one question
SILENT_S = 8.0  # without a good answer: a stopped process, or one that says that it is stuck
_STARTING_S = 120.0  # until the first answer


class Probes:
    """Asks the ports that `ports()` names. What it knows of a port is forgotten with `began`."""

    def __init__(
        self,
        ports: Callable[[], list[int]],
        clock: Callable[[], float] = time.monotonic,
        silent_s: float = SILENT_S,
    ) -> None:
        self._ports, self._clock, self._silent_s = ports, clock, silent_s
        self._began: dict[int, float] = {}
        self._well: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def start(self) -> None:
        """Ask on until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._stop.set()

    def began(self, port: int) -> None:
        """Note that the process at `port` was started a moment ago."""
        self._began[port] = self._clock()
        self._well.pop(port, None)

    def silent(self, port: int) -> float | None:
        """Return for how many seconds too long the process at `port` gave no good answer; None where it is well."""
        now = self._clock()
        well = self._well.get(port)
        waited = now - self._began.get(port, now) if well is None else now - well
        return waited if waited > (_STARTING_S if well is None else self._silent_s) else None

    def ask(self) -> None:
        """Ask each port once."""
        ports = self._ports()
        with ThreadPoolExecutor(max(len(ports), 1), "probe") as pool:
            list(pool.map(self._ask, ports))

    def _ask(self, port: int) -> None:
        began = self._began.get(port)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_PATIENCE_S):
                if self._began.get(port) == began:  # else the answer was its predecessor's
                    self._well[port] = self._clock()
        except OSError:  # refused, too late, or 503
            pass

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.ask()
