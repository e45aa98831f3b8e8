"""The logs of all topics that the recorder reads, and their delivery with repeats and crashes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa

from models.evaluation.candidates import sampled
from streams.codec import Record, Tensor, encode
from streams.database import schema
from streams.kafka.envelope import pack_records
from streams.kafka.message import Message
from streams.kafka.partitioner import partition_key, partition_of
from streams.kafka.types import TopicPartition
from streams.recorder.epoch_writer import MARKED, EpochWriter
from streams.records import (
    ClickUpload,
    DeviceBatch,
    EndOfLog,
    EpochBegin,
    EpochEnd,
    Kind,
    NegativeMemory,
    Outcome,
    Versions,
    item_key,
)
from streams.settings import Settings
from streams.state import cloud as cloud_state
from streams.state import device as device_state
from streams.state.row_codec import encode_row
from streams.topics import (
    CLOUD_STATE,
    DEAD_LETTERS,
    DEVICE_EVENTS,
    DEVICE_STATE,
    DEVICE_UPLINK,
    OUTCOMES,
    TOPICS,
    Topic,
)

Logs = dict[TopicPartition, list[tuple[bytes, bytes]]]

RECORDED = (
    "interactions",
    "items",
    "negative_memories",
    "click_uploads",
    "outcomes",
    "metric_points",
    "drifts",
    "user_snapshots",
)
ITEMS = [f"item {i}" for i in range(30)]


@dataclass
class TopicLogs:
    """The records of a run's topics, as the other processes write them."""

    settings: Settings
    logs: Logs = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep the topics that the recorder reads, each with all its partitions."""
        read = {topic.name for topic in (*MARKED, DEAD_LETTERS)}
        self.logs = {TopicPartition(*source): records for source, records in self.logs.items() if source[0] in read}
        for topic in (*MARKED, DEAD_LETTERS):
            for partition in range(topic.partitions(self.settings)):
                self.logs.setdefault(TopicPartition(topic.name, partition), [])

    def put(self, topic: Topic, user: str, record: Record | bytes) -> None:
        """Append a record of a user."""
        source = TopicPartition(topic.name, partition_of(user.encode(), topic.partitions(self.settings)))
        self.logs[source].append((user.encode(), record if isinstance(record, bytes) else encode(record)))

    def put_marker(self, record: EpochBegin | EpochEnd | EndOfLog) -> None:
        """Append a marker to every partition."""
        topics = (DEVICE_EVENTS,) if isinstance(record, EpochBegin) else (DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES)
        for partition in range(self.settings.partitions):
            for topic in topics:
                self.logs[TopicPartition(topic.name, partition)].append((b"", encode(record)))
            if isinstance(record, EpochBegin):
                continue
            over, key = isinstance(record, EndOfLog), partition_key(partition)
            device = device_state.DevicePartitionState(ended=record.epoch, over=over)
            self.logs[TopicPartition(DEVICE_STATE.name, partition)].append((key, encode_row(device, 1)))
            cloud = cloud_state.CloudPartitionState(ended=record.epoch, over=over)
            self.logs[TopicPartition(CLOUD_STATE.name, partition)].append((key, encode_row(cloud, 1)))

    def messages(self, source: TopicPartition, offset: int) -> list[Message]:
        """Return the record at an offset, or those in its envelope."""
        return Message.received(*source, offset, *self.logs[source][offset])

    def in_envelopes(self) -> TopicLogs:
        """Return the same logs with their records in envelopes."""
        with_envelopes = {topic.name for topic in TOPICS if topic.envelopes}
        logs = {
            source: [(key, value) for key, value, _ in pack_records(records, 3)]
            if source.topic in with_envelopes
            else records
            for source, records in self.logs.items()
        }
        return TopicLogs(self.settings, logs)


def random_run(settings: Settings, users: int = 5, epochs: int = 3, events: int = 14, seed: int = 1) -> TopicLogs:
    """Return the logs of users with slates and clicks; every click is ranked, with memories and uploads."""
    topic_logs, draw = TopicLogs(settings), random.Random(seed)
    catalogue = np.array([item_key(name) for name in ITEMS])
    seqs, time, impression = dict.fromkeys((f"u{i}" for i in range(users)), 0), 1_000_000, 0
    for epoch in range(epochs):
        topic_logs.put_marker(EpochBegin(epoch, 0, time))
        for user in seqs:
            items = [draw.choice(ITEMS) for _ in range(events)]
            kinds = [draw.choice([Kind.EXPOSURE, Kind.CLICK]) for _ in items]
            impressions, times = [], []
            while len(impressions) < events:
                impression, size = impression + 1, draw.randint(1, 4)
                time += draw.randint(0, 3)
                for i in range(min(size, events - len(impressions))):
                    impressions.append(impression if size > 1 else 0)
                    times.append(time + i)
            batch = DeviceBatch(user, seqs[user], items, bytes(kinds), times, impressions)
            topic_logs.put(DEVICE_EVENTS, user, batch)
            for i, kind in enumerate(kinds):
                if kind == Kind.CLICK:
                    topic_logs.put(OUTCOMES, user, random_outcome(settings, batch, i, epoch, catalogue, draw))
            r2 = Tensor.of(np.full(settings.dim, epoch), "<f4")
            topic_logs.put(DEVICE_UPLINK, user, NegativeMemory(user, epoch + 1, r2, 0, 10, time))
            clicked = [item_key(name) for name, kind in zip(items, kinds, strict=True) if kind]
            topic_logs.put(DEVICE_UPLINK, user, ClickUpload(user, epoch, Tensor.of(np.array(clicked), "<i8"), time))
            seqs[user] += events
            topic_logs.put(DEVICE_STATE, user, encode_row(device_state.DeviceState(seq=seqs[user] - 1), 1))
            topic_logs.put(DEVICE_STATE, user, encode_row(device_state.DeviceState(seq=seqs[user]), 1))
            topic_logs.put(CLOUD_STATE, user, encode_row(cloud_state.CloudState(epoch=epoch), 1))
        topic_logs.put_marker(EpochEnd(epoch, time))
    topic_logs.put_marker(EndOfLog(epochs - 1, time, sum(seqs.values())))
    return topic_logs


def random_outcome(
    settings: Settings, batch: DeviceBatch, i: int, epoch: int, catalogue: Any, draw: random.Random
) -> Outcome:
    first = i
    while first and batch.impressions[i] and batch.impressions[first - 1] == batch.impressions[i]:
        first -= 1
    target = item_key(batch.items[i])
    listed = sampled(settings.seed, batch.user, batch.seq + i, catalogue, target, draw.choice([9, 9, 9, 40]))
    n = len(listed.keys)
    return Outcome(
        user=batch.user,
        seq=batch.seq + i,
        epoch=epoch,
        time=batch.times[first],
        target=target,
        target_index=listed.target_index,
        candidates=Tensor.of(listed.keys, "<i8"),
        slate="sampled",
        cold=listed.cold,
        expired=False,
        ranks={"random": listed.target_index + 1, "fast": draw.randint(1, n), "mc2sf": draw.randint(1, n)},
        not_finite=0,
        versions=Versions(),
        window=draw.randint(0, 1),
        r2_age=0,
        history=draw.randint(0, 1),
        bytes_up=800,
        bytes_down=12_800,
    )


def deliver(
    topic_logs: TopicLogs,
    start: Callable[[], EpochWriter],
    draw: random.Random | None = None,
    crashes: float = 0.0,
    flushes: float = 0.0,
) -> EpochWriter:
    """Deliver all logs to an epoch writer, partitions interleaved by `draw`, with crashes and early writes."""
    draw = draw or random.Random(0)
    writer = start()
    offsets = writer.positions()
    while True:
        unread = [
            p for p, records in topic_logs.logs.items() if offsets.get(p, 0) < len(records) and p not in writer.ahead
        ]
        if not unread:
            return writer
        source = draw.choice(unread)
        offsets[source] = offsets.get(source, 0)
        for _ in range(draw.randint(1, 5)):
            if offsets[source] < len(topic_logs.logs[source]):
                for message in topic_logs.messages(source, offsets[source]):
                    writer.add(message)
                offsets[source] += 1
        while writer.barrier.complete:
            writer.close_epoch()
        if draw.random() < flushes:
            writer.flush()
        if draw.random() < crashes:
            writer = start()
            offsets = writer.positions()


def dump(engine: sa.Engine, run: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows that the recorder wrote for a run, without wall clocks."""
    with engine.connect() as connection:
        return {name: sorted(_rows(connection, schema.public_tables()[name], run), key=repr) for name in RECORDED}


def _rows(connection: sa.Connection, table: sa.Table, run: str) -> Iterator[tuple[Any, ...]]:
    columns = [c for c in table.columns if not c.name.endswith("_wall") and c.name != "run"]
    for row in connection.execute(sa.select(*columns).where(table.c.run == run)):
        yield tuple(tuple(sorted(v.items())) if isinstance(v, dict) else v for v in row)
