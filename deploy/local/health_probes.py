"""Health probes of the processes of a run: `/healthz` of each, every two seconds.

All are probed in parallel: in sequence, a few slow ones would delay the probes of the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from deploy.local import loopback

_INTERVAL_S = 2.0
_TIMEOUT_S = 1.0  # of one probe
UNHEALTHY_AFTER_S = 8.0  # without a successful probe: the process hangs, or reports that it is stuck
_STARTING_S = 120.0  # allowed until the first successful probe


class HealthProbes:
    """Probes of the ports that `ports()` returns; `began` resets the history of a port."""

    def __init__(
        self,
        ports: Callable[[], list[int]],
        clock: Callable[[], float] = time.monotonic,
        unhealthy_after_s: float = UNHEALTHY_AFTER_S,
    ) -> None:
        self._ports, self._clock, self._unhealthy_after_s = ports, clock, unhealthy_after_s
        self._began: dict[int, float] = {}
        self._healthy: dict[int, float] = {}  # time of the last good answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def start(self) -> None:
        """Probe from a thread until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Stop probing."""
        self._stop.set()

    def began(self, port: int) -> None:
        """Record that the process at `port` has just been started."""
        self._began[port] = self._clock()
        self._healthy.pop(port, None)

    def unhealthy_for(self, port: int) -> float | None:
        """Return the seconds without a good answer if they are too many; None if the process is healthy."""
        now = self._clock()
        healthy = self._healthy.get(port)
        waited = now - self._began.get(port, now) if healthy is None else now - healthy
        return waited if waited > (_STARTING_S if healthy is None else self._unhealthy_after_s) else None

    def probe(self) -> None:
        """Probe each port once."""
        ports = self._ports()
        with ThreadPoolExecutor(max(len(ports), 1), "probe") as pool:
            list(pool.map(self._probe, ports))

    def _probe(self, port: int) -> None:
        began = self._began.get(port)
        try:
            loopback.get(port, "/healthz", _TIMEOUT_S)
        except OSError:  # refused, too late, or 503
            return
        if self._began.get(port) == began:  # otherwise its predecessor has answered
            self._healthy[port] = self._clock()

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self.probe()
