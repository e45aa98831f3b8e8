"""A looped replay for an hour: memory and open files must be constant and the lag bounded.

`make soak MINUTES=60`: a free-running `mc2sf run` at a steady pace on its own Apache Kafka and PostgreSQL, with
retrains. Every few seconds each of its processes is measured from the outside; the lag is read from its /metrics.
`soak.json` has a row per process, and its values at ten moments.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.faults.whole_run import ROLES, Run, kafka_home
from benchmarks.machine import described
from benchmarks.servers.kafka import Cluster
from benchmarks.servers.postgres import Postgres

RESULT = Path(__file__).with_name("soak.json")
# about 9,500 events in 14 days, repeated: 160 events per second
SOURCE = "synthetic:users=100,items=150"
ENVIRONMENT = {"MC2SF_RETRAIN_EVENTS": "100000"}  # reached during the warm-up
ARGUMENTS = ("--free", "--speed", "20000", "--loops", "1000", "--epoch", "2000", "--retrain-every", "40000")
WARM_UP = 0.2  # share of the time that is not measured: caches fill, histories reach their length
_LOOK_S = 5.0
_BEGIN_S = 300.0  # until all processes run
_MOMENTS = 10
_STATE = ("memory_mb", "files", "threads")
_SHOWN = (*_STATE, "lag")


def looks(run: Run, seconds: float) -> Iterator[tuple[float, dict[str, dict[str, float]]]]:
    """Yield every few seconds the time since the first measurement, and the values of each process."""
    began = time.monotonic()
    while (at := time.monotonic() - began) < seconds:
        if run.process.poll() is not None:
            raise RuntimeError(f"the run ended after {at:.0f} s: {run.log.read_text()[-600:]}")
        lags = _lags(run.out / "logs" / "targets.json")
        seen = {"run": _seen(psutil.Process(run.process.pid))}
        for role in ROLES:
            for process in run.processes(role):
                seen[role] = _seen(process) | {"lag": lags[role]}
        yield at, seen
        time.sleep(_LOOK_S)


def _seen(process: psutil.Process) -> dict[str, float]:
    return {
        "pid": process.pid,
        "memory_mb": process.memory_info().rss / 1e6,
        "files": process.num_fds(),
        "threads": process.num_threads(),
    }


def _lags(targets: Path) -> dict[str, float]:
    """Return the lag of each role over all its topics."""
    lags: defaultdict[str, float] = defaultdict(float)
    for target in json.loads(targets.read_text()) if targets.is_file() else ():
        try:
            with urlopen(f"http://{target['targets'][0]}/metrics", timeout=2) as answer:
                text = answer.read().decode()
        except OSError:
            continue
        for family in text_string_to_metric_families(text):
            if family.name == "mc2sf_consumer_lag_records":
                lags[target["labels"]["job"]] += sum(sample.value for sample in family.samples)
    return lags


def judged(times: list[float], seen: list[dict[str, float]]) -> dict[str, Any]:
    """Return the row of one process after the warm-up: growth per hour by least squares, first and last tenth, lag."""
    first = int(len(times) * WARM_UP)
    hours = np.array(times[first:]) / 3600
    tenth = max(len(hours) // 10, 1)
    row: dict[str, Any] = {}
    for what in _STATE:
        values = np.array([each[what] for each in seen[first:]])
        row[what] = {
            "first": round(float(values[:tenth].mean()), 1),
            "last": round(float(values[-tenth:].mean()), 1),
            "most": round(float(values.max()), 1),
            "an_hour": round(float(np.polyfit(hours, values, 1)[0]), 1),
        }
    lag = np.array([each.get("lag", 0.0) for each in seen[first:]])
    row["lag"] = {"p50": float(np.median(lag)), "p99": float(np.quantile(lag, 0.99)), "most": float(lag.max())}
    return row


def soak(home: Path, minutes: float, folder: Path) -> dict[str, Any]:
    """Run for so long. Return the measurements. Raises RuntimeError if the run ends by itself."""
    times: list[float] = []
    seen: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(home, folder / "kafka"))
        (folder / "postgresql").mkdir()
        database = stack.enter_context(Postgres(folder / "postgresql"))
        run = Run(
            folder / "run",
            cluster,
            "--database",
            database.url,
            source=SOURCE,
            arguments=ARGUMENTS,
            environment=ENVIRONMENT,
        )
        stack.callback(run.stop)
        _until_all_run(run)
        for at, processes in looks(run, minutes * 60):
            times.append(round(at, 1))
            for name in processes:
                seen[name].append(processes[name])
    whole = {name: rows for name, rows in seen.items() if len(rows) == len(times)}
    restarted = {name for name, rows in seen.items() if len({row["pid"] for row in rows}) > 1} | (
        set(seen) - set(whole)
    )
    moments = sorted({int(share * (len(times) - 1)) for share in np.linspace(0, 1, _MOMENTS)})
    return {
        "minutes": minutes,
        "source": SOURCE,
        "arguments": " ".join(ARGUMENTS),
        "environment": ENVIRONMENT,
        "processes": {name: judged(times, rows) for name, rows in whole.items()},
        "restarted": sorted(restarted),
        "moments": [
            {
                "at_s": times[i],
                **{name: {k: round(rows[i].get(k, 0.0), 1) for k in _SHOWN} for name, rows in whole.items()},
            }
            for i in moments
        ],
        "machine": described(["faust-streaming", "confluent-kafka", "torch", "sqlalchemy"]),
    }


def _until_all_run(run: Run) -> None:
    until = time.monotonic() + _BEGIN_S
    while not all(run.processes(role) for role in ROLES):
        if time.monotonic() > until or run.process.poll() is not None:
            raise RuntimeError(f"the run does not begin: {run.log.read_text()[-600:]}")
        time.sleep(0.5)


def main() -> None:
    """Run, and write the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    home = kafka_home(parser)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = soak(home, options.minutes, Path(folder))
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["processes"].items():
        memory, files = row["memory_mb"], row["files"]
        print(
            f"{name:<12} {memory['first']:>6} -> {memory['last']:>6} MB ({memory['an_hour']:+} an hour), "
            f"files {files['first']} -> {files['last']}, lag at most {row['lag']['most']:.0f}"
        )
    sys.exit(1 if result["restarted"] else 0)


if __name__ == "__main__":
    main()
