"""Latency of a free-running loop at shares of its capacity: `python -m benchmarks.latency`.

The capacity is the rate at which a free-running run as fast as possible applies a log. Then the same log is replayed at
25, 50 and 75 % of it. An event counts from the time at which it is sent: the replayer sends by the clock and never
waits for the workers, so what queues up is measured. Quantiles are interpolated in the buckets of the histograms.
`latency.json` has the rates, p50, p95 and p99 of event to durable state and of request to ranking, and the load of the
machine before each run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import described

RESULT = Path(__file__).with_name("latency.json")
_SHARES = (0.25, 0.5, 0.75)
_REPORTED = ("events_sent", "seconds", "events_per_second", "rank_requests", "expired", "freshness_ms", "answer_ms")


def run(source: str, arguments: list[str], speed: str, out: Path) -> dict[str, Any]:
    """Replay a log at a speed; return what the run measured, also if it was over before a release could rank."""
    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "deploy.cli", "run", source, *arguments]
    subprocess.run([*command, "--free", "--speed", speed, "--out", str(out)], check=False)  # noqa: S603 - no shell
    summary = json.loads((out / "summary.json").read_text())
    return {"load_before": round(load, 2), **{name: summary[name] for name in _REPORTED}}


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="synthetic:users=400")
    parser.add_argument("--limit", default="20000")
    parser.add_argument("--evaluate", default="0.05")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    arguments = ["--limit", options.limit, "--evaluate", options.evaluate]
    with tempfile.TemporaryDirectory() as folder:
        full = run(options.source, arguments, "max", Path(folder, "max"))
        capacity = full["events_per_second"]
        rows = {
            share: run(options.source, arguments, f"{share * capacity:.0f}/s", Path(folder, str(share)))
            for share in _SHARES
        }
    found = {
        "source": options.source,
        "arguments": arguments,
        "as_fast_as_possible": full,
        "at_share_of_capacity": rows,
        "machine": described(["torch", "confluent-kafka", "faust-streaming"]),
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["at_share_of_capacity"], indent=1))


if __name__ == "__main__":
    main()
