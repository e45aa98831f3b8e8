"""Device and cloud without a broker: topics are lists, crashes are drawn."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from models.data.item_statistics import ItemStatistics
from streams.cloud.batch import CloudWork
from streams.codec import Reader, Tensor, encode
from streams.device.worker import Device
from streams.faust_runtime.worker import Start, Work
from streams.kafka.envelope import KeyValue, max_records, pack_records
from streams.kafka.message import Message
from streams.kafka.partitioner import is_partition_key, partition_key, partition_of, partition_of_row
from streams.records import (
    DeviceBatch,
    DeviceEvent,
    EpochBegin,
    EpochMarker,
    GatewayRequest,
    Kind,
    Outcome,
    OutcomeEvent,
    item_key,
)
from streams.release_records import ItemCounts
from streams.releases.release import Release
from streams.settings import Settings
from streams.state.device import DevicePartitionState
from streams.state.row_codec import decode_row, encode_row
from streams.topics import CLOUD_DOWNLINK, CLOUD_STATE, DEVICE_EVENTS, DEVICE_STATE, DEVICE_UPLINK, OUTCOMES, Topic

FENCING_EPOCH = 1
SMALL = Settings(
    dim=4, threshold=3, history_short=4, history_long=6, negatives=9, evaluate=1.0, partitions=2, run="sim"
)


def item_counts(epoch: int, batches: Sequence[DeviceBatch]) -> ItemCounts:
    """Return the item counts that the coordinator would publish for an epoch."""
    clicks: Counter[int] = Counter()
    for batch in batches:
        for item, kind in zip(batch.items, batch.kinds, strict=True):
            clicks[item_key(item)] += kind in (Kind.CLICK, Kind.PAST_CLICK)
    keys = sorted(clicks)
    numbers = [clicks[key] for key in keys]
    return ItemCounts(epoch, 0, 1, Tensor.of(np.array(keys, np.int64), "<i8"), Tensor.of(np.array(numbers), "<i8"))


class Crash(Exception):  # noqa: N818 - a planned event, not an error
    """The process was killed here."""


@dataclass
class Worker:
    """A worker's process. The rows that it has written survive a crash."""

    start: Start
    releases: dict[int, Release]
    changelog: Topic
    rows: dict[bytes, bytes] = field(default_factory=dict)
    assignment: int = 0
    wall: int = 1_000
    behind: int = 0  # releases that the worker has not received yet

    def process(self, received: Sequence[Message], topics: Topics, *, crash_after: int | None = None) -> Work:
        """Process a batch; with `crash_after`, raise Crash after the outputs and that many rows are written."""
        work = self.start(received, self.rows, self.assignment, self.wall)
        work.required_releases()
        work.required_item_statistics()
        newest = max(max(self.releases) - self.behind, 0)
        writes = work.process(
            lambda version: self.releases[newest if version is None else version], topics.item_statistics
        )
        for topic, partition, key, value, _ in list(writes.records()):
            topics.append(topic, partition, key, value)
        for key, row in list(writes.rows())[:crash_after]:
            value = b""
            if row is None:
                self.rows.pop(key, None)
            else:
                value = self.rows[key] = encode_row(row, FENCING_EPOCH)
            topics.append(self.changelog.name, partition_of_row(key, topics.settings.partitions), key, value)
        if crash_after is not None:
            raise Crash
        return work


class Topics:
    """A broker's topics in memory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._item_statistics: dict[int, ItemStatistics] = {}
        self.counted = -1  # the newest epoch whose item statistics are known (free-running)
        self.logs: defaultdict[tuple[str, int], list[tuple[bytes, bytes]]] = defaultdict(list)

    def append(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        """Append a record to a partition."""
        self.logs[topic.removeprefix(f"{self.settings.run}-"), partition].append((key, value))

    def item_statistics(self, epoch: int | None) -> ItemStatistics:
        """Return the item statistics as of the end of `epoch`, which must be over; None: the newest known."""
        epoch = self.counted if epoch is None else epoch
        if epoch not in self._item_statistics:
            self._item_statistics[epoch] = self._counted(epoch)
        return self._item_statistics[epoch]

    def _counted(self, last: int) -> ItemStatistics:
        batches: defaultdict[int, list[DeviceBatch]] = defaultdict(list)
        keys: set[str] = set()
        for records in self.read(DEVICE_EVENTS, DeviceEvent):
            epoch = -1
            for record in records:
                if isinstance(record, EpochBegin):
                    epoch = record.epoch
                elif isinstance(record, DeviceBatch) and not (record.key and record.key in keys):
                    keys.add(record.key)
                    batches[epoch].append(record)
        statistics = ItemStatistics.empty()
        for epoch in range(last + 1):
            counts = item_counts(epoch, batches[epoch])
            statistics = statistics.next_epoch(counts.items.array(), counts.clicks.array())
        return statistics

    def read(self, topic: Topic, kinds: Any) -> list[list[Any]]:
        """Return the records of a topic, one list per partition."""
        reader: Reader[Any] = Reader(kinds)
        partitions = range(topic.partitions(self.settings))
        return [[reader.decode(each.value) for each in self.messages(topic.name, p)] for p in partitions]

    def messages(self, topic: str, partition: int, begin: int = 0, end: int | None = None) -> list[Message]:
        """Return the records of a partition from offset `begin` on, those in envelopes too."""
        numbered = list(enumerate(self.logs[topic, partition]))[begin:end]
        return [each for i, record in numbered for each in Message.received(topic, partition, i, *record)]


class Simulation:
    """Device and cloud on one log of events; `chance` draws the batches and the crashes.

    Free-running, a restarted device is behind with the releases for a while, and the item statistics are those of any
    epoch that all partitions have ended.
    """

    def __init__(
        self, settings: Settings, releases: dict[int, Release], chance: random.Random, crashes: float = 0.0
    ) -> None:
        self.settings, self.chance, self.crashes = settings, chance, crashes
        self.topics = Topics(settings)
        self.device = Worker(Device(settings), releases, DEVICE_STATE)
        self.cloud = Worker(partial(CloudWork, settings), releases, CLOUD_STATE)
        self.position: defaultdict[tuple[str, str, int], int] = defaultdict(int)  # by role, topic, partition
        self.committed: dict[tuple[str, str, int], int] = {}

    def send(self, *batches: DeviceBatch | GatewayRequest) -> None:
        """Send batches of events, and requests of gateways."""
        records: defaultdict[int, list[KeyValue]] = defaultdict(list)
        for batch in batches:
            key = batch.user.encode()
            records[partition_of(key, self.settings.partitions)].append((key, encode(batch)))
        maximum = max_records(DEVICE_EVENTS, self.settings)
        for partition, of_partition in records.items():
            for key, value, _ in pack_records(of_partition, maximum):
                self.topics.append(DEVICE_EVENTS.name, partition, key, value)

    def send_marker(self, marker: EpochMarker) -> None:
        """Send an epoch marker to every partition."""
        for partition in range(self.settings.partitions):
            self.topics.append(DEVICE_EVENTS.name, partition, b"", encode(marker))

    def settle(self) -> None:
        """Run until nothing is left to read, and free-running no request without an answer."""
        while self._left():
            self.turn()
        if not self.settings.lockstep:
            self.device.wall += 100_000
            self.device.process([], self.topics)

    def turn(self) -> None:
        """Run one batch of the device or of the cloud."""
        if self.chance.random() < 0.5:
            self._run("device", self.device, (DEVICE_EVENTS, CLOUD_DOWNLINK))
        else:
            self._run("cloud", self.cloud, (DEVICE_UPLINK,))

    def _draw_knowledge(self) -> None:
        """Draw what a free-running device knows: it may lag behind with releases, and with item statistics."""
        if self.chance.random() < 0.3:
            self.device.behind = 0
        number = range(self.settings.partitions)
        rows = [self.device.rows.get(partition_key(each)) for each in number]
        states = [DevicePartitionState() if row is None else decode_row(row, DevicePartitionState) for row in rows]
        over = min(-1 if state.waiting else state.ended for state in states)
        self.topics.counted = max(self.topics.counted, self.chance.randint(-1, over))

    def _left(self) -> bool:
        readers = (("device", DEVICE_EVENTS), ("device", CLOUD_DOWNLINK), ("cloud", DEVICE_UPLINK))
        return any(
            self.position[role, topic.name, partition] < len(self.topics.logs[topic.name, partition])
            for role, topic in readers
            for partition in range(self.settings.partitions)
        )

    def _run(self, role: str, worker: Worker, topics: Sequence[Topic]) -> None:
        received, after = [], {}
        for topic in topics:
            for partition in range(self.settings.partitions):
                log, begin = self.topics.logs[topic.name, partition], self.position[role, topic.name, partition]
                end = min(len(log), begin + self.chance.choice((0, 0, 1, 3, 10, 50)))
                received += self.topics.messages(topic.name, partition, begin, end)
                after[role, topic.name, partition] = end
        self._interleave(received)
        if not received:
            return
        if not self.settings.lockstep:
            self._draw_knowledge()
        crash_after = self.chance.randrange(len(received) + 2) if self.chance.random() < self.crashes else None
        try:
            work = worker.process(received, self.topics, crash_after=crash_after)
        except Crash:
            self._restart(role, worker)
            return
        assert not work.fatal
        self.position.update(after)
        if self.chance.random() < 0.5:  # an offset is committed later than its batch is durable, if ever
            self.committed.update({key: offset for key, offset in self.position.items() if key[0] == role})

    def _restart(self, role: str, worker: Worker) -> None:
        worker.assignment += 1
        worker.behind = 0 if self.settings.lockstep else self.chance.randrange(2)
        for key in self.position:
            if key[0] == role:
                self.position[key] = self.committed.get(key, 0)

    def _interleave(self, received: list[Message]) -> None:
        """Shuffle `received`, but keep the order within each partition of a topic."""
        shuffled = sorted(range(len(received)), key=lambda _: self.chance.random())
        queues: defaultdict[tuple[str, int], list[Message]] = defaultdict(list)
        for record in received:
            queues[record.topic, record.partition].append(record)
        order = [(received[i].topic, received[i].partition) for i in shuffled]
        received[:] = [queues[source].pop(0) for source in order]


def decoded(rows: dict[bytes, bytes]) -> dict[bytes, list[Any]]:
    """Return a table's rows as arrays, without the fencing epochs of their writers."""
    return {key: decode_row(row, list) for key, row in rows.items()}


def without_offsets(rows: dict[bytes, bytes]) -> dict[bytes, Any]:
    """Return the device's rows as arrays, without the next expected offset of device-events."""
    partitions = {key: decode_row(row, DevicePartitionState) for key, row in rows.items() if is_partition_key(key)}
    return decoded(rows) | {key: msgspec.structs.replace(row, next=0) for key, row in partitions.items()}


def outcomes(topics: Topics) -> dict[tuple[str, int], Outcome]:
    """Return the outcomes without repeats; a repeat must be equal."""
    found: dict[tuple[str, int], Outcome] = {}
    for record in chain(*topics.read(OUTCOMES, OutcomeEvent)):
        if isinstance(record, Outcome):
            assert found.setdefault((record.user, record.seq), record) == record
    return found
