"""Workers as processes on a real broker: publishing releases, sending events in lockstep, reading the output topics."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from benchmarks.servers.worker import wait_for
from streams.codec import Reader, Record, encode
from streams.kafka import clients
from streams.kafka.message import Message
from streams.kafka.partitioner import partition_key
from streams.records import DeviceBatch, EndOfLog, EpochBegin, EpochEnd
from streams.releases.item_statistics import counts_key
from streams.settings import Settings
from streams.state import cloud as cloud_state
from streams.state import device as device_state
from streams.state.row_codec import FencingEpochs, decode_row, read_fencing_epoch
from streams.topics import DEVICE_EVENTS, MODEL_RELEASES, OUTCOMES, Topic
from tests.support.simulation import item_counts


class TopicReader:
    """Reads the records of a topic of a run from the beginning."""

    def __init__(self, settings: Settings, topic: Topic | str, kinds: Any = None) -> None:
        name = topic if isinstance(topic, str) else topic.full(settings)
        self._topic = name.removeprefix(f"{settings.run}-")
        partitions = settings.partitions if isinstance(topic, str) else topic.partitions(settings)
        self._consumer = clients.consumer(settings, f"test-{uuid.uuid4().hex[:8]}")
        self._consumer.assign([TopicPartition(name, p, OFFSET_BEGINNING) for p in range(partitions)])
        self._reader: Reader[Any] = Reader(kinds or object)
        self._raw = kinds is None
        self.records: list[Any] = []  # (partition, key, value) if no kinds are given

    def poll(self) -> list[Any]:
        """Read the available records; return all read so far."""
        for message in self._consumer.consume(10_000, 0.1):
            assert message.error() is None
            for each in Message.of_kafka(self._topic, message):
                raw = each.partition, each.key or None, None if each.tombstone else each.value
                self.records.append(raw if self._raw else self._reader.decode(each.value))
        return self.records

    def until(self, condition: Callable[[list[Any]], Any], what: str) -> list[Any]:
        """Read until `condition` holds for all records so far, and return them."""
        wait_for(lambda: condition(self.poll()), what)
        return self.records

    def close(self) -> None:
        self._consumer.close()


class EventSender:
    """Sends events as the replayer does, in lockstep on the markers that workers write to outcomes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.producer = clients.producer(settings, "test-replay")
        self.outcomes = TopicReader(settings, OUTCOMES)

    def send_marker(self, marker: Record) -> None:
        for partition in range(self.settings.partitions):
            value = encode(marker)
            self.producer.produce(DEVICE_EVENTS.full(self.settings), key=b"", value=value, partition=partition)
        assert not self.producer.flush(30)

    def send(self, batches: Sequence[DeviceBatch]) -> None:
        for batch in batches:
            self.producer.produce(DEVICE_EVENTS.full(self.settings), key=batch.user.encode(), value=encode(batch))
        assert not self.producer.flush(30)

    def epoch(
        self, epoch: int, release: int, batches: Sequence[DeviceBatch], meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Send an epoch, call `meanwhile`, wait for its end in every partition of outcomes, publish its item counts."""
        self.send_marker(EpochBegin(epoch, release, epoch))
        self.send(batches)
        meanwhile()
        self.send_marker(EpochEnd(epoch, epoch))
        self.wait_for_marker(encode(EpochEnd(epoch, epoch)), f"epoch {epoch}")
        counts = item_counts(epoch, batches)
        self.producer.produce(MODEL_RELEASES.full(self.settings), key=counts_key(counts), value=encode(counts))
        assert not self.producer.flush(30)

    def end(self, epochs: int) -> None:
        self.send_marker(EndOfLog(epochs - 1, epochs, 0))
        self.wait_for_marker(encode(EndOfLog(epochs - 1, epochs, 0)), "the end of the log")
        wait_for(self._over, "the end of the log in both tables")

    def _over(self) -> bool:
        """Return True if both tables have the end of the log: a worker sends the marker before it writes the row."""
        kinds: Any = {"device": device_state.DevicePartitionState, "cloud": cloud_state.CloudPartitionState}
        for role, kind in kinds.items():
            rows = table(self.settings, role)
            found = [rows.get(partition_key(part)) for part in range(self.settings.partitions)]
            if not all(row is not None and decode_row(row, kind).over for row in found):
                return False
        return True

    def wait_for_marker(self, marker: bytes, what: str) -> None:
        def everywhere(records: list[Any]) -> bool:
            return len({partition for partition, _, value in records if value == marker}) == self.settings.partitions

        self.outcomes.until(everywhere, f"{what} in every partition of outcomes")


def table(settings: Settings, role: str) -> dict[bytes, bytes]:
    """Return the rows of a worker's table, from its changelog."""
    log = TopicReader(settings, f"{settings.run}-{role}-state-changelog")
    ends = sum(
        log._consumer.get_watermark_offsets(TopicPartition(f"{settings.run}-{role}-state-changelog", part))[1]
        for part in range(settings.partitions)
    )
    rows: dict[bytes, bytes] = {}
    epochs = FencingEpochs()
    for part, key, value in log.until(lambda records: len(records) >= ends, "the changelog"):
        if value is None:
            rows.pop(key, None)
            continue
        if epochs.admits(part, read_fencing_epoch(value)):
            rows.pop(key, None)
            rows[key] = value
    log.close()
    return rows
