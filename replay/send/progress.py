"""How far a replay got, so that one that was killed goes on without sending anything twice.

The file says which epochs are whole, and where in each partition they end. What was sent of the epoch under way is read
back from the topic itself: the broker's log is the truth, and nothing can fall between it and a note about it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from replay.prepare.plan import write_json
from streams.codec import Reader, RecordError
from streams.kafka import clients
from streams.process.log_throttle import Bounded
from streams.process.retry import patiently
from streams.records import DeviceBatch, DeviceEvent, EpochBegin, Mark
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS

log = logging.getLogger(__name__)
log.addFilter(Bounded())
PROGRESS = "progress.json"


class ReplayError(RuntimeError):
    """The log can't be sent; the message says why and what to do."""


class Progress(msgspec.Struct, frozen=True):
    """Epochs before `epoch` are in the topic, acknowledged, and end before `offsets`."""

    log: str  # digest of the plan: another log must not be continued
    epoch: int
    time: int  # event time reached, ms
    offsets: list[int]  # a partition
    events: list[int]  # a partition
    batches: int
    beside: dict[
        str, int
    ] = {}  # what was sent that is not each event once: events by fault, records of hostile devices


@dataclass
class Sent:
    """What is in the topic already."""

    progress: Progress
    users: dict[str, int] = field(default_factory=dict)  # next seq, of users with events after the progress
    marks: list[set[tuple[str, int]]] = field(default_factory=list)  # (tag, epoch) a partition, after the progress
    releases: dict[int, int | None] = field(default_factory=dict)  # that epochs began with


def load(folder: Path, plan: str) -> Progress | None:
    """The progress noted in `folder`. Raises ReplayError where it is that of another log, or damaged."""
    path = folder / PROGRESS
    if not path.exists():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Progress)
    except msgspec.MsgspecError as error:
        raise ReplayError(f"{path} is damaged: {error}") from error
    if found.log != plan:
        raise ReplayError(f"{path} belongs to another log or other options: choose another run id")
    return found


def save(folder: Path, progress: Progress, patience_s: float) -> None:
    """Note the progress, in one step; a full disk is waited for."""
    patiently(patience_s)(write_json, folder / PROGRESS, msgspec.to_builtins(progress))


def read_back(
    settings: Settings, progress: Progress | None, plan: str, strangers: frozenset[str] = frozenset()
) -> Sent:
    """Everything that the topic holds after `progress`, but for what `strangers` sent and what came again.

    With None the topic must be empty. Raises ReplayError.
    """
    n = settings.partitions
    consumer = clients.consumer(settings, "replay-resume")
    name = DEVICE_EVENTS.full(settings)
    try:
        metadata = consumer.list_topics(name, timeout=15).topics[name]
        if metadata.error is not None or len(metadata.partitions) != n:
            raise ReplayError(f"topic {name} should have {n} partitions and has {len(metadata.partitions)}")
        ends = [_end(consumer, TopicPartition(name, p)) for p in range(n)]
        if progress is None:
            if any(ends):
                raise ReplayError(f"topic {name} has records, but nothing says whose: choose another run id")
            return Sent(Progress(plan, 0, 0, [0] * n, [0] * n, 0), marks=[set() for _ in range(n)])
        short = [p for p in range(n) if ends[p] < progress.offsets[p]]
        if short:
            raise ReplayError(f"topic {name} has lost records of partitions {short}: this run can't be continued")
        return _tail(consumer, name, progress, ends, strangers)
    except KafkaException as error:
        raise ReplayError(f"brokers {settings.brokers}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _without_leader(error: BaseException) -> bool:
    """Whether a partition has no leader yet: a topic that was created a moment ago."""
    return isinstance(error, KafkaException) and error.args[0].code() in {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
    }


@retry(retry=retry_if_exception(_without_leader), stop=stop_after_delay(15), wait=wait_fixed(0.1), reraise=True)
def _end(consumer: Any, place: TopicPartition) -> int:
    """The offset behind the last record of a partition."""
    return int(consumer.get_watermark_offsets(place, timeout=15)[1])


def _tail(consumer: Any, name: str, progress: Progress, ends: list[int], strangers: frozenset[str]) -> Sent:
    offsets, events, batches = list(progress.offsets), list(progress.events), progress.batches
    sent = Sent(progress, marks=[set() for _ in ends])
    reader: Reader[DeviceBatch | Mark] = Reader(DeviceEvent)
    open_ones = {p for p, end in enumerate(ends) if offsets[p] < end}
    consumer.assign([TopicPartition(name, p, offsets[p]) for p in sorted(open_ones)])
    while open_ones:
        for message in consumer.consume(1000, 0.2):
            if message.error():
                raise ReplayError(f"reading {name} back: {message.error()}")
            p = message.partition()
            offsets[p] = message.offset() + 1
            if offsets[p] >= ends[p]:
                open_ones.discard(p)
            try:
                record = reader.decode(message.value())
            except RecordError as error:  # somebody else's: the devices refuse it
                log.warning("%s/%d@%d is passed over: %s", name, p, message.offset(), error)
                continue
            if isinstance(record, DeviceBatch):
                strange = record.user in strangers or message.key() != record.user.encode()
                if strange or record.seq < sent.users.get(record.user, 0):
                    continue
                sent.users[record.user] = record.seq + len(record.items)
                events[p] += len(record.items)
                batches += 1
            else:
                sent.marks[p].add((type(record).__name__, record.epoch))
                if isinstance(record, EpochBegin):
                    sent.releases[record.epoch] = record.release
    sent.progress = Progress(progress.log, progress.epoch, progress.time, offsets, events, batches)
    return sent
