"""Partitions are read from their offsets; errors, tombstones, pauses and the lag of what is read."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from streams.kafka.partition_consumer import PartitionConsumer
from streams.kafka.types import TopicPartition as Source
from streams.settings import Settings

FIRST, SECOND = Source("t", 0), Source("t", 1)


class Raw(NamedTuple):
    """A message as confluent-kafka gives it, whose fields are calls."""

    at: int
    data: bytes | None = b"x"
    failure: KafkaError | None = None

    def error(self) -> KafkaError | None:
        return self.failure

    def topic(self) -> str:
        return "local-t"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.at

    def key(self) -> None:
        return None

    def value(self) -> bytes | None:
        return self.data

    def headers(self) -> None:
        return None


class FakeConsumer:
    def __init__(self, *messages: Raw) -> None:
        self.messages = list(messages)
        self.assigned: list[TopicPartition] = []
        self.calls: list[tuple[str, list[int]]] = []

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = partitions

    def poll(self, _seconds: float) -> Raw | None:
        return self.messages.pop(0) if self.messages else None

    def consume(self, most: int, _seconds: float) -> list[Raw]:
        taken, self.messages = self.messages[:most], self.messages[most:]
        return taken

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.calls.append(("pause", [each.partition for each in partitions]))

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.calls.append(("resume", [each.partition for each in partitions]))

    def get_watermark_offsets(self, partition: TopicPartition, **_: object) -> tuple[int, int]:
        return 0, 10 + partition.partition


def reading(fake: FakeConsumer, *, strict: bool = False) -> PartitionConsumer:
    return PartitionConsumer(Settings(run="local"), "test", {FIRST: 0, SECOND: 7}, strict=strict, consumer=fake)


def test_it_begins_at_the_offsets_and_names_topics_without_the_run() -> None:
    fake = FakeConsumer(Raw(0), Raw(1, None))
    consumer = reading(fake)
    assert [(each.topic, each.offset) for each in fake.assigned] == [("local-t", OFFSET_BEGINNING), ("local-t", 7)]
    value, tombstone = consumer.read(10, 0.0)
    assert (value.source, value.offset, value.value, value.tombstone) == (FIRST, 0, b"x", False)
    assert (tombstone.value, tombstone.tombstone) == (b"", True)
    assert consumer.read(10, 0.0) == []


def test_the_lag_is_what_was_not_read() -> None:
    consumer = reading(FakeConsumer(Raw(0), Raw(1)))
    assert consumer.lag() == {FIRST: 10, SECOND: 4}
    consumer.read(10, 0.0)
    assert consumer.lag() == {FIRST: 8, SECOND: 4}
    assert consumer.has_unread(FIRST)


def test_only_changes_of_the_paused_partitions_are_passed_on() -> None:
    fake = FakeConsumer()
    consumer = reading(fake)
    for paused in (set(), {FIRST}, {FIRST}, {SECOND}, set()):
        consumer.pause_only(paused)
    assert fake.calls == [("pause", [0]), ("pause", [1]), ("resume", [0]), ("resume", [1])]


def test_an_error_is_logged_and_passed_over_or_if_strict_raised(caplog: pytest.LogCaptureFixture) -> None:
    bad = Raw(0, failure=KafkaError(KafkaError._TRANSPORT))
    assert [message.offset for message in reading(FakeConsumer(bad, Raw(1))).read(10, 0.0)] == [1]
    assert "test: the consumer reports" in caplog.text
    with pytest.raises(KafkaException):
        reading(FakeConsumer(bad), strict=True).read(10, 0.0)
