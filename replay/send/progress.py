"""Progress of a replay, so that a killed one continues without sending anything twice.

The progress file holds the number of complete epochs, and the offset at which they end in each partition. The records
of the current epoch are read back from the topic itself, since a file could be out of date.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Assignment
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from replay.json_file import write_json
from streams.codec import Reader, RecordError
from streams.kafka import clients
from streams.kafka.partition_consumer import PartitionConsumer
from streams.kafka.stall_detector import StalledError
from streams.kafka.types import KafkaConsumer, OffsetPartition, TopicPartition
from streams.process.log_throttle import LogThrottle
from streams.process.retry import retrying
from streams.records import DeviceBatch, DeviceEvent, EpochBegin, EpochMarker
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())
PROGRESS = "progress.json"
_MAX_RECORDS = 1000
_WAIT_S = 0.2


class ReplayError(RuntimeError):
    """The log can't be sent; the message says why and what to do."""


class Progress(msgspec.Struct, frozen=True):
    """The progress of a replay: all epochs before `epoch` are acknowledged, and end before `offsets`."""

    log: str  # digest of the plan: a replay of another log must not be continued
    epoch: int
    time: int  # event time reached, ms
    offsets: list[int]  # per partition
    events: list[int]  # per partition
    batches: int
    fault_counts: dict[str, int] = {}  # events by fault in sending; for `hostile`, records


@dataclass
class SentRecords:
    """The records of this replay that are in the topic already."""

    progress: Progress
    users: dict[str, int] = field(default_factory=dict)  # next seq of users with events after the progress
    markers: list[set[tuple[str, int]]] = field(default_factory=list)  # per partition, (tag, epoch) after the progress
    releases: dict[int, int | None] = field(default_factory=dict)  # by epoch that has begun


def load(folder: Path, plan: str) -> Progress | None:
    """Return the progress saved in `folder`. Raises ReplayError if it belongs to another log, or is damaged."""
    path = folder / PROGRESS
    if not path.exists():
        return None
    try:
        progress = msgspec.json.decode(path.read_bytes(), type=Progress)
    except msgspec.MsgspecError as error:
        raise ReplayError(f"{path} is damaged: {error}") from error
    if progress.log != plan:
        raise ReplayError(f"{path} belongs to another log or other options: choose another run id")
    return progress


def save(folder: Path, progress: Progress, patience_s: float) -> None:
    """Save the progress in one step; if the disk is full, wait."""
    retrying(patience_s)(write_json, folder / PROGRESS, msgspec.to_builtins(progress))


def read_back(
    settings: Settings, progress: Progress | None, plan: str, hostile_users: frozenset[str] = frozenset()
) -> SentRecords:
    """Read the records in the topic after `progress`, except duplicates and records of `hostile_users`.

    Without a progress the topic must be empty. Raises ReplayError.
    """
    n = settings.partitions
    consumer = clients.consumer(settings, "replay-resume")
    name = DEVICE_EVENTS.full(settings)
    try:
        metadata = consumer.list_topics(name, timeout=15).topics[name]
        if metadata.error is not None or len(metadata.partitions) != n:
            raise ReplayError(f"topic {name} should have {n} partitions and has {len(metadata.partitions)}")
        ends = [_end(consumer, Assignment(name, p)) for p in range(n)]
        if progress is None:
            if any(ends):
                raise ReplayError(f"topic {name} has records, but there is no progress file: choose another run id")
            return SentRecords(Progress(plan, 0, 0, [0] * n, [0] * n, 0), markers=[set() for _ in range(n)])
        short = [p for p in range(n) if ends[p] < progress.offsets[p]]
        if short:
            raise ReplayError(f"topic {name} has lost records of partitions {short}: this run can't be continued")
        return _tail(settings, progress, ends, hostile_users)
    except StalledError as error:
        raise ReplayError(f"brokers {settings.brokers}: {error}") from error
    except KafkaException as error:
        raise ReplayError(f"brokers {settings.brokers}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _without_leader(error: BaseException) -> bool:
    """Return True if a partition has no leader yet, as in a topic that has just been created."""
    return isinstance(error, KafkaException) and error.args[0].code() in {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
    }


@retry(retry=retry_if_exception(_without_leader), stop=stop_after_delay(15), wait=wait_fixed(0.1), reraise=True)
def _end(consumer: KafkaConsumer, partition: OffsetPartition) -> int:
    """Return the offset after the last record of a partition."""
    return consumer.get_watermark_offsets(partition, timeout=15)[1]


def _tail(settings: Settings, progress: Progress, ends: list[int], hostile_users: frozenset[str]) -> SentRecords:
    offsets, events, batches = list(progress.offsets), list(progress.events), progress.batches
    sent = SentRecords(progress, markers=[set() for _ in ends])
    reader: Reader[DeviceBatch | EpochMarker] = Reader(DeviceEvent)
    unfinished = {p for p, end in enumerate(ends) if offsets[p] < end}
    start = {TopicPartition(DEVICE_EVENTS.name, p): offsets[p] for p in sorted(unfinished)}
    with closing(PartitionConsumer(settings, "replay-resume", start, strict=True)) as consumer:
        while unfinished:
            for message in consumer.read(_MAX_RECORDS, _WAIT_S):
                p = message.partition
                offsets[p] = message.offset + 1
                if offsets[p] >= ends[p]:
                    unfinished.discard(p)
                try:
                    record = reader.decode(message.value)
                except RecordError as error:  # not from this replay: the devices refuse it
                    log.warning("%s is skipped: %s", message.position, error)
                    continue
                if isinstance(record, DeviceBatch):
                    foreign = record.user in hostile_users or not record.user or message.key != record.user.encode()
                    if foreign or record.seq < sent.users.get(record.user, 0):
                        continue
                    sent.users[record.user] = record.seq + len(record.items)
                    events[p] += len(record.items)
                    batches += 1
                else:
                    sent.markers[p].add((type(record).__name__, record.epoch))
                    if isinstance(record, EpochBegin):
                        sent.releases[record.epoch] = record.release
    sent.progress = Progress(progress.log, progress.epoch, progress.time, offsets, events, batches)
    return sent
