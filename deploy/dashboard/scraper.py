"""The metrics of a run's processes, read from their addresses, and how fast they change."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from deploy.local import loopback
from deploy.local.child_process import parsed
from deploy.local.supervisor import Target
from deploy.report import process_metrics

WINDOW_S = 10.0  # over which rates and quantiles are taken
_TIMEOUT_S = 1.0
_AT_ONCE = 8

Samples = dict[str, float]  # values by name and labels, without those that all of a process have


class Process(msgspec.Struct, frozen=True):
    """A process: its address HOST:PORT, its role, and its metrics; None if it did not answer."""

    address: str
    role: str
    samples: Samples | None


def _fetch(address: str) -> str:
    return loopback.get(address, "/metrics", _TIMEOUT_S)


class Scraper:
    """Reads the processes that `targets` lists, and remembers what it read for WINDOW_S."""

    def __init__(
        self, targets: Path | None, fetch: Callable[[str], str] = _fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`targets`: a file as Prometheus' file-based service discovery reads it; None or no such file: no process."""
        self._targets, self._fetch, self._clock = targets, fetch, clock
        self._history: deque[tuple[float, dict[str, Samples]]] = deque()
        self.processes: list[Process] = []

    def refresh(self) -> None:
        """Read all processes."""
        try:
            entries = msgspec.json.decode(self._targets.read_bytes() if self._targets else b"[]", type=list[Target])
        except (OSError, msgspec.DecodeError):  # not yet written
            entries = []
        found = [(address, each.labels.get("job", "")) for each in entries for address in each.targets]
        with ThreadPoolExecutor(_AT_ONCE, "scrape") as pool:
            read = list(pool.map(self._read, (address for address, _ in found)))
        self.processes = [Process(*each, samples) for each, samples in zip(found, read, strict=True)]
        now = self._clock()
        self._history.append((now, {p.address: p.samples for p in self.processes if p.samples is not None}))
        while len(self._history) > 1 and self._history[1][0] < now - WINDOW_S:
            self._history.popleft()

    def _read(self, address: str) -> Samples | None:
        try:
            return parsed(self._fetch(address))
        except (OSError, ValueError):
            return None

    def total(self, name: str, role: str | None = None) -> float | None:
        """Return the sum of a metric over the processes, or those of a role; None if none of them has it."""
        found = [p.samples[name] for p in self.processes if p.samples and name in p.samples and role in (None, p.role)]
        return sum(found) if found else None

    def total_of(self, metric: str, role: str) -> float | None:
        """Return the sum of a metric over its labels and the processes of a role; None if none of them has it."""
        found = [
            value
            for process in self.processes
            if process.role == role
            for name, value in (process.samples or {}).items()
            if name.partition("{")[0] == metric
        ]
        return sum(found) if found else None

    def increases(self) -> tuple[float, list[Samples]]:
        """Return the seconds of the window, and per process what each metric has grown by meanwhile.

        A process that was started within the window counts from its start.
        """
        if not self._history:
            return 0.0, []
        (began, before), (now, after) = self._history[0], self._history[-1]
        return now - began, [
            {name: max(value - before[address].get(name, 0.0), 0.0) for name, value in samples.items()}
            for address, samples in after.items()
            if address in before
        ]

    def rate(self, *names: str) -> float | None:
        """Return what counters grew by per second, summed; None if nothing was read twice yet."""
        seconds, grown = self.increases()
        return sum(each.get(name, 0.0) for each in grown for name in names) / seconds if seconds and grown else None

    def quantiles(self, metric: str, shares: Iterable[float]) -> list[float | None]:
        """Return quantiles of a histogram over the window, s."""
        return process_metrics.quantiles(self.increases()[1], metric, shares)
