"""The time for which users of a killed device worker wait: from its death until their events are applied again.

A free-running `mc2sf run` with two workers of each kind on a real Kafka, at a steady pace. Device workers are
killed one after another with SIGKILL at moments that the seed draws; `mc2sf run` replaces them. The wait ends with the
first durable row of state in every partition under a later assignment: rows on the changelog have the fencing epoch of
their writer (see `streams.state.row_codec`). Users of the other worker wait as well while partitions move, and count.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_END, ConsumerGroupState, KafkaException, TopicPartition

from benchmarks.faults.whole_run import Run
from benchmarks.servers.kafka import Cluster
from deploy.runs import find
from streams.kafka import clients, topic_admin
from streams.settings import Settings
from streams.state.row_codec import read_fencing_epoch
from streams.topics import DEVICE_STATE

SOURCE = "synthetic:users=2000,items=300"  # about 190,000 events in 14 days
ARGUMENTS = ("--free", "--speed", "600", "--workers", "2", "--epoch", "5000", "--retrain-every", "1000000")
GOAL_S = 10.0
_PATIENCE_S = 300.0  # for what is waited for between two kills
_MOMENT_S = 3.0  # a kill comes within so long after both workers have their partitions


class Rows:
    """The times at which rows of each partition's state became durable, with their fencing epochs."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = clients.consumer(settings, "takeover")
        name = DEVICE_STATE.full(settings)
        self._consumer.assign([TopicPartition(name, p, OFFSET_END) for p in range(settings.partitions)])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.epochs = [0] * settings.partitions  # the newest
        self.since = [0.0] * settings.partitions  # when its first row came
        self.last = [time.monotonic()] * settings.partitions  # when any row came
        self.gap = [0.0] * settings.partitions  # the longest time without one, since it was set to zero

    def start(self) -> None:
        """Start reading, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            value = message.value() if message is not None and not message.error() else None
            if message is None or not value:
                continue
            p, now = message.partition(), time.monotonic()
            epoch = read_fencing_epoch(value)
            if epoch > self.epochs[p]:
                self.epochs[p], self.since[p] = epoch, now
            self.gap[p] = max(self.gap[p], now - self.last[p])
            self.last[p] = now


class Group:
    """The consumer group of the device workers, from the broker."""

    def __init__(self, settings: Settings) -> None:
        self._admin, self._name = topic_admin.admin(settings), f"{settings.run}-device"

    def settled(self) -> bool:
        """Return True if two members share the partitions."""
        try:
            found = self._admin.describe_consumer_groups([self._name], request_timeout=10)[self._name].result()
        except KafkaException:
            return False
        shares = [len(member.assignment.topic_partitions) for member in found.members]
        return found.state == ConsumerGroupState.STABLE and len(shares) == 2 and all(shares)


@contextmanager
def _reading(settings: Settings) -> Iterator[Rows]:
    rows = Rows(settings)
    rows.start()
    try:
        yield rows
    finally:
        rows.close()


def takeovers(home: Path, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill so often. Return the times, their median and maximum. Raises TimeoutError if users are not served again."""
    chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
    with Cluster(home, folder / "kafka") as cluster:
        run = Run(folder / "run", cluster, source=SOURCE, arguments=ARGUMENTS)
        try:
            _until((run.out / "run.json").is_file, "the run to begin")
            settings = find(str(run.out)).settings
            with _reading(settings) as rows:
                _until(lambda: all(rows.epochs), "events to be applied in every partition")
                group = Group(settings)
                each = [_kill(run, group, rows, chance) for _ in range(kills)]
        finally:
            run.stop()
    served = [kill["served_s"] for kill in each]
    return {"kills": each, "p50_s": round(statistics.median(served), 1), "max_s": max(served), "goal_s": GOAL_S}


def _kill(run: Run, group: Group, rows: Rows, chance: random.Random) -> dict[str, float]:
    _until(group.settled, "two workers that share the partitions")
    time.sleep(chance.uniform(0.0, _MOMENT_S))
    before = list(rows.epochs)
    victim = chance.choice(run.processes("device"))
    victim.kill()
    died = time.monotonic()

    def served() -> bool:
        return all(new > old for new, old in zip(rows.epochs, before, strict=True))

    _until(served, "every partition to be served again")
    waited = max(rows.since) - died
    rows.gap = [0.0] * len(rows.gap)
    _until(group.settled, "the worker that was started again to have its share")
    return {"served_s": round(waited, 1), "again_s": round(max(rows.gap), 1)}


def _until(condition: Any, what: str) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {_PATIENCE_S:.0f} s for {what}")
        time.sleep(0.05)
