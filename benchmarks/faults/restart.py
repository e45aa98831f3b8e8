"""The time in which a restarted device worker restores its state: from the changelog, and from its copy on this disk.

`python -m benchmarks.faults.restart`: the changelog of a run on a real Kafka is filled with users, each with several
rows. Then a worker is started on it repeatedly, until it reports that it is ready: without a copy (`changelog`),
making one (`copying`), and from the copy (`copy`). All include the start of Python (`nothing`: no user).
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.whole_run import kafka_home
from benchmarks.machine import described
from benchmarks.servers.kafka import Cluster
from benchmarks.servers.worker import Process
from streams.kafka import clients, topic_admin
from streams.kafka.partitioner import partition_of_row
from streams.settings import Settings
from streams.state.device import DeviceState, user_key
from streams.state.row_codec import encode_row
from streams.topics import DEVICE_STATE

RESULT = Path(__file__).with_name("restart.json")


def ready(settings: Settings, *, local_copy: bool) -> float:
    """Return the seconds from a worker's start until it has its state; then stop it."""
    began = time.perf_counter()
    with Process(settings.model_copy(update={"local_copy": local_copy}), "device") as worker:
        worker.until_ready()
        seconds = time.perf_counter() - began
        worker.send(signal.SIGTERM)
        worker.exit_code()
    return round(seconds, 1)


def fill(settings: Settings, users: int, versions: int) -> int:
    """Write the rows. Return the bytes of one."""
    chance = np.random.default_rng(1)
    producer = clients.producer(settings, "restart")
    topic = DEVICE_STATE.full(settings)
    size = 0
    for version in range(1, versions + 1):
        for number in range(users):
            vector = chance.normal(size=settings.dim).astype("<f4").tobytes()
            items = chance.integers(1 << 62, size=3 * settings.threshold).tolist()
            state = DeviceState(
                seq=version, gru_state=vector, r2=vector, clicks=items[:10], exposures=items[10:], uploads=items[:10]
            )
            key, row = user_key(f"user-{number}"), encode_row(state, 1)
            size = len(row)
            producer.produce(topic, row, key, partition_of_row(key, settings.partitions))
            producer.poll(0)
    if left := producer.flush(120):
        raise RuntimeError(f"{left} rows were not taken")
    return size


def measured(home: Path, users: int, versions: int, times: int, folder: Path) -> dict[str, Any]:
    """Return the medians of so many starts of each kind."""
    seconds: dict[str, list[float]] = {"nothing": [], "changelog": [], "copying": [], "copy": []}
    with Cluster(home, folder / "kafka") as cluster:
        for i in range(times):
            settings = Settings(run=f"restart-{i}", brokers=cluster.addresses, state_dir=folder / f"state-{i}")
            topic_admin.create(settings)
            seconds["nothing"].append(ready(settings, local_copy=False))
            size = fill(settings, users, versions)
            for kind in ("changelog", "copying", "copy"):
                seconds[kind].append(ready(settings, local_copy=kind != "changelog"))
            print(f"{i + 1} of {times}: " + ", ".join(f"{kind} {some[-1]} s" for kind, some in seconds.items()))
    medians = {kind: float(np.median(some)) for kind, some in seconds.items()}
    return {"users": users, "rows": users * versions, "row_bytes": size, "seconds": seconds, "median_s": medians}


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--versions", type=int, default=3, help="rows a user")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    home = kafka_home(parser)
    with tempfile.TemporaryDirectory(prefix="restart-") as folder:
        result = measured(home, options.users, options.versions, options.times, Path(folder))
    result["machine"] = described(("faust-streaming", "rocksdict", "confluent-kafka"))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
