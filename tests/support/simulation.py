"""The device and the cloud without a broker: topics as lists, crashes as values."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import torch

from models.data.catalogue import Catalogue
from models.data.item_statistics import ItemStatistics
from models.mc2sf.nets import Nets
from models.mc2sf.tiled_scorer import Scorer
from streams.cloud.batch import CloudWork
from streams.codec import Reader, Tensor, encode
from streams.device.worker import Device
from streams.kafka.message import Message
from streams.kafka.partitioner import is_partition_key, partition_of, partition_of_row
from streams.model_config import net_config
from streams.records import (
    DeviceBatch,
    DeviceEvent,
    EndOfLog,
    EpochBegin,
    EpochEnd,
    ItemCounts,
    Kind,
    Manifest,
    Outcome,
    OutcomeEvent,
    Versions,
    item_key,
)
from streams.releases.release import Release
from streams.settings import Settings
from streams.state.device import DevicePartitionState
from streams.state.row_codec import decode_row, encode_row
from streams.topics import CLOUD_DOWNLINK, CLOUD_STATE, DEVICE_EVENTS, DEVICE_STATE, DEVICE_UPLINK, OUTCOMES, Topic

torch.set_num_threads(1)  # as every worker does

FENCING_EPOCH = 1
SMALL = Settings(
    dim=4, threshold=3, history_short=4, history_long=6, negatives=9, evaluate=1.0, partitions=2, run="sim"
)


def release(settings: Settings, version: int, items: int, *, encoder: int | None = None) -> Release:
    """A release with items 1..`items` and weights of their own per encoder version."""
    encoder = version if encoder is None else encoder
    catalogue = Catalogue(np.arange(1, items + 1))
    nets = Nets.initial(net_config(settings), catalogue.size, 100 + encoder)
    versions = Versions(version, encoder, encoder, version)
    manifest = Manifest(version, 0, "initial", versions, -1, 0, catalogue.size, "", {}, {}, {})
    return Release(manifest, nets, Scorer(nets), catalogue)


def item_counts(epoch: int, batches: Sequence[DeviceBatch]) -> ItemCounts:
    """What the coordinator would publish of an epoch."""
    clicks: Counter[int] = Counter()
    for batch in batches:
        for item, kind in zip(batch.items, batch.kinds, strict=True):
            clicks[item_key(item)] += kind in (Kind.CLICK, Kind.PAST_CLICK)
    keys = sorted(clicks)
    numbers = [clicks[key] for key in keys]
    return ItemCounts(epoch, 0, 1, Tensor.of(np.array(keys, np.int64), "<i8"), Tensor.of(np.array(numbers), "<i8"))


class Crash(Exception):  # noqa: N818 - it is no error here
    """The process was killed here."""


@dataclass
class Worker:
    """A worker's process: its table survives it, as far as it was written; what it began with does not."""

    start: Any
    releases: dict[int, Release]
    changelog: Topic
    rows: dict[bytes, bytes] = field(default_factory=dict)
    assigned: int = 0

    def work(self, received: Sequence[Message], topics: Topics, *, cut: int | None = None) -> Any:
        """Work a batch off; with `cut`, be killed after the outputs and that many writes."""
        work = self.start(received, self.rows, self.assigned, 1_000)
        work.required_releases()
        work.required_item_statistics()
        writes = work.process(
            lambda version: self.releases[max(self.releases) if version is None else version],
            topics.standing,
        )
        for topic, partition, key, value in list(writes.records()):
            topics.append(topic, partition, key, value)
        for written, (key, row) in enumerate(list(writes.rows())):
            if cut is not None and written >= cut:
                break
            value = b""
            if row is None:
                self.rows.pop(key, None)
            else:
                value = self.rows[key] = encode_row(row, FENCING_EPOCH)
            topics.append(self.changelog.name, partition_of_row(key, topics.settings.partitions), key, value)
        if cut is not None:
            raise Crash
        return work


class Topics:
    """A broker's logs, in memory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._standings: dict[int, ItemStatistics] = {}
        self.logs: defaultdict[tuple[str, int], list[tuple[bytes, bytes]]] = defaultdict(list)

    def append(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        self.logs[topic.removeprefix(f"{self.settings.run}-"), partition].append((key, value))

    def standing(self, epoch: int | None) -> ItemStatistics:
        """How items stood after `epoch`, by the log of device-events: asked for once it is over. None: as at first."""
        if epoch is None:
            return ItemStatistics.empty()
        if epoch not in self._standings:
            self._standings[epoch] = self._counted(epoch)
        return self._standings[epoch]

    def _counted(self, epoch: int) -> ItemStatistics:
        batches: defaultdict[int, list[DeviceBatch]] = defaultdict(list)
        for records in self.read(DEVICE_EVENTS, DeviceEvent):
            now = -1
            for record in records:
                if isinstance(record, EpochBegin):
                    now = record.epoch
                elif isinstance(record, DeviceBatch):
                    batches[now].append(record)
        found = ItemStatistics.empty()
        for each in range(epoch + 1):
            counts = item_counts(each, batches[each])
            found = found.next_epoch(counts.items.array(), counts.clicks.array())
        return found

    def read(self, topic: Topic, kinds: Any) -> list[list[Any]]:
        """The records of a topic, a list a partition."""
        reader: Reader[Any] = Reader(kinds)
        parts = range(topic.partitions(self.settings))
        return [[reader.decode(value) for _, value in self.logs[topic.name, part]] for part in parts]


class Simulation:
    """Device and cloud on one log of events, in lockstep: batches and crashes as the generator has it."""

    def __init__(
        self, settings: Settings, releases: dict[int, Release], chance: random.Random, crashes: float = 0.0
    ) -> None:
        self.settings, self.chance, self.crashes = settings, chance, crashes
        self.topics = Topics(settings)
        self.device = Worker(Device(settings), releases, DEVICE_STATE)
        self.cloud = Worker(lambda *a: CloudWork(settings, *a), releases, CLOUD_STATE)
        self.position: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self.committed: dict[tuple[str, str, int], int] = {}
        self.killed = 0

    def send(self, *batches: DeviceBatch) -> None:
        for batch in batches:
            key = batch.user.encode()
            part = partition_of(key, self.settings.partitions)
            self.topics.append(DEVICE_EVENTS.name, part, key, encode(batch))

    def mark(self, mark: EpochBegin | EpochEnd | EndOfLog) -> None:
        for part in range(self.settings.partitions):
            self.topics.append(DEVICE_EVENTS.name, part, b"", encode(mark))

    def settle(self) -> None:
        """Run until nothing is left to read."""
        while self._left():
            if self.chance.random() < 0.5:
                self._run("device", self.device, (DEVICE_EVENTS, CLOUD_DOWNLINK))
            else:
                self._run("cloud", self.cloud, (DEVICE_UPLINK,))

    def _left(self) -> bool:
        readers = (("device", DEVICE_EVENTS), ("device", CLOUD_DOWNLINK), ("cloud", DEVICE_UPLINK))
        return any(
            self.position[role, topic.name, part] < len(self.topics.logs[topic.name, part])
            for role, topic in readers
            for part in range(self.settings.partitions)
        )

    def _run(self, role: str, worker: Worker, topics: Sequence[Topic]) -> None:
        received, after = [], {}
        for topic in topics:
            for part in range(self.settings.partitions):
                log, begin = self.topics.logs[topic.name, part], self.position[role, topic.name, part]
                end = min(len(log), begin + self.chance.choice((0, 0, 1, 3, 10, 50)))
                received += [Message(topic.name, part, i, *log[i]) for i in range(begin, end)]
                after[role, topic.name, part] = end
        self._interleave(received)
        if not received:
            return
        cut = self.chance.randrange(len(received) + 2) if self.chance.random() < self.crashes else None
        try:
            work = worker.work(received, self.topics, cut=cut)
        except Crash:
            self._restart(role, worker)
            return
        assert not work.fatal
        self.position.update(after)
        if self.chance.random() < 0.5:  # an offset is committed later than its batch is durable, if ever
            self.committed.update({at: offset for at, offset in self.position.items() if at[0] == role})

    def _restart(self, role: str, worker: Worker) -> None:
        worker.assigned += 1
        self.killed += 1
        for at in self.position:
            if at[0] == role:
                self.position[at] = self.committed.get(at, 0)

    def _interleave(self, received: list[Message]) -> None:
        """Any order that keeps the order within a partition of a topic."""
        places = sorted(range(len(received)), key=lambda _: self.chance.random())
        queues: defaultdict[tuple[str, int], list[Message]] = defaultdict(list)
        for record in received:
            queues[record.topic, record.partition].append(record)
        order = [(received[i].topic, received[i].partition) for i in places]
        received[:] = [queues[which].pop(0) for which in order]


def decoded(rows: dict[bytes, bytes]) -> dict[bytes, list[Any]]:
    """Return a table's rows as arrays, without the fencing epochs of their writers."""
    return {key: decode_row(row, list) for key, row in rows.items()}


def without_offsets(rows: dict[bytes, bytes]) -> dict[bytes, Any]:
    """Return the device's rows as arrays, without the next expected offset of device-events."""
    partitions = {key: decode_row(row, DevicePartitionState) for key, row in rows.items() if is_partition_key(key)}
    return decoded(rows) | {key: msgspec.structs.replace(row, next=0) for key, row in partitions.items()}


def outcomes(topics: Topics) -> dict[tuple[str, int], Outcome]:
    """The outcomes, repeats dropped; a repeat must be equal but for the wall clock."""
    found: dict[tuple[str, int], Outcome] = {}
    for record in chain(*topics.read(OUTCOMES, OutcomeEvent)):
        if isinstance(record, Outcome):
            assert found.setdefault((record.user, record.seq), record) == record
    return found
