"""Latency of a free-running loop at shares of its capacity: `python -m benchmarks.latency`, about four minutes.

One run, whose replay is set to one speed after the other. Until a retrain is in force events come slowly; then a burst
is sent as fast as possible, and the capacity is its events by the time until the last of them is durable and the cloud
has answered the last request. After that events come at 25, 50 and 75 % of it, with a pause between in which the queue
is emptied.

An event counts from the time at which it is sent. The replayer sends by the clock and never waits for the workers, so
what queues up is measured; `sent_per_second` says if it could not keep the pace itself. A retrain may fall into any
phase, as it does in production. Quantiles are interpolated in the buckets of the workers' histograms (1, 2, 5, 10 ms
and so on), of one record per user and moment. `latency.json` also has the load average before each phase.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

import msgspec

from benchmarks.machine import described
from benchmarks.servers.worker import wait_for
from deploy.dashboard.scraper import Samples, Scraper
from deploy.local.supervisor import TARGETS
from deploy.report import process_metrics
from replay.send.clock_file import ClockFile, ReplayChange

RESULT = Path(__file__).with_name("latency.json")
SHARES, WARM_PER_S = (0.25, 0.5, 0.75), 500
_OPTIONS = ("--free", "--evaluate", "0.1", "--epoch", "2000", "--retrain-every", "20000", "--loops", "20")
_SENT, _APPLIED = "mc2sf_events_sent_total", "mc2sf_events_applied_total"
_PENDING = "mc2sf_pending_requests"
_WAIT_S, _DRAIN_S = 240, 60


class Loop:
    """A run whose replay is steered. As a context it is interrupted at the end."""

    def __init__(self, source: str, out: Path, workers: int) -> None:
        command = [sys.executable, "-m", "deploy.cli", "run", source, *_OPTIONS, "--workers", str(workers)]
        command += ["--speed", f"{WARM_PER_S}/s", "--out", str(out)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command, no shell
        self._clock, self._scraper = ClockFile(out / "state" / "replay"), Scraper(out / "logs" / TARGETS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(120)

    def speed(self, per_second: float | None) -> None:
        """Set the pace; 0 is as fast as possible, None a pause."""
        control = ReplayChange(paused=True) if per_second is None else ReplayChange(paused=False, speed=per_second)
        self._clock.change(control)

    def read(self) -> tuple[float, Samples]:
        """Return the time and the sums of the metrics of the replay and the device workers."""
        assert self._process.poll() is None, "the run has ended: it was too fast for its log, or failed"
        self._scraper.refresh()
        sums: Counter[str] = Counter()
        for process in self._scraper.processes:
            if process.role in ("replay", "device"):
                sums.update(process.samples or {})
        return time.monotonic(), dict(sums)

    def behind(self) -> float:
        """Return the number of events that were sent and are not durable, and of requests not answered."""
        _, now = self.read()
        return now.get(_SENT, 0.0) - now.get(_APPLIED, 0.0) + now.get(_PENDING, 0.0)

    def learnt(self) -> bool:
        """Return True if a release after the first is in force."""
        return self.read()[1].get("mc2sf_release_version", 0.0) > 0

    def drain(self) -> None:
        """Pause until all events are durable and all requests answered."""
        self.speed(None)
        time.sleep(1.5)  # the replayer looks at the file, and its last records are acknowledged
        wait_for(lambda: self.behind() <= 0, "the queue to be empty", _DRAIN_S)


def capacity(loop: Loop, burst: int) -> dict[str, float]:
    """Send `burst` events as fast as possible; return how many per second until the loop has nothing left to do."""
    began, before = loop.read()
    loop.speed(0)
    wait_for(lambda: loop.read()[1][_SENT] - before[_SENT] >= burst, "the burst", _DRAIN_S)
    loop.drain()
    ended, after = loop.read()
    events = after[_APPLIED] - before[_APPLIED]
    return {"events": events, "seconds": round(ended - began, 2), "per_second": round(events / (ended - began))}


def phase(loop: Loop, per_second: float, seconds: float) -> dict[str, Any]:
    """Send at a rate; return rates and latencies of `seconds` after the first two."""
    load = os.getloadavg()[0]
    loop.speed(per_second)
    time.sleep(2)
    began, before = loop.read()
    time.sleep(seconds)
    ended, after = loop.read()
    changed = {name: value - before.get(name, 0.0) for name, value in after.items()}

    def rate(name: str) -> float:
        return round(changed.get(name, 0.0) / (ended - began), 1)

    found = {
        "wanted_per_second": round(per_second),
        "sent_per_second": rate(_SENT),
        "durable_per_second": rate(_APPLIED),
        "ranked_per_second": rate('mc2sf_outcomes_total{kind="answered"}'),
        "expired": changed.get('mc2sf_outcomes_total{kind="expired"}', 0.0),
        "event_to_durable_ms": process_metrics.latency([changed], "mc2sf_freshness_seconds"),
        "request_to_ranking_ms": process_metrics.latency([changed], "mc2sf_answer_seconds"),
        "load_before": round(load, 1),
    }
    loop.drain()
    return found


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="synthetic:users=1000")
    parser.add_argument("--burst", type=int, default=20_000, help="events by which the capacity is measured")
    parser.add_argument("--seconds", type=float, default=30, help="of each phase")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Loop(options.source, Path(folder, "run"), options.workers) as loop:
        wait_for(loop.learnt, "the first retrain", _WAIT_S)
        loop.drain()
        whole = capacity(loop, options.burst)
        print("capacity", whole, flush=True)
        rows = {}
        for share in SHARES:
            rows[f"{share:.0%}"] = phase(loop, share * whole["per_second"], options.seconds)
            print(share, rows[f"{share:.0%}"], flush=True)
    found = {
        "source": options.source,
        "options": [*_OPTIONS, "--workers", str(options.workers)],
        "seconds": options.seconds,
        "capacity": whole,
        "at_share_of_capacity": rows,
        "machine": described(["torch", "confluent-kafka", "faust-streaming"]),
    }
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


if __name__ == "__main__":
    main()
