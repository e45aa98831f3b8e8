"""A producer's queue has limited room: a sender waits for the broker if it is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka import KafkaException, Producer

from replay.send.producer import Sender
from streams.codec import Tensor
from streams.coordinator.publisher import Publisher
from streams.database.engine import connect
from streams.kafka import clients
from streams.kafka.dead_letters import DeadLetterBox
from streams.kafka.types import RecordPosition
from streams.recorder.redelivery import RefusedRecord, ResendError, resend
from streams.records import DeadLetter, EpochEnd
from streams.release_records import EpochDecision, ItemCounts
from streams.settings import Settings

Delivered = Callable[[Any, Any], object]
NOTHING = Tensor("<i8", (0,), b"")


class Narrow:
    """A producer with room for one record, which a broker takes at each poll, unless it is `unavailable`."""

    def __init__(self, *, unavailable: bool = False) -> None:
        self.taken: list[tuple[bytes | None, bytes | None]] = []
        self._unavailable = unavailable
        self._queue: list[tuple[bytes | None, bytes | None, int, Delivered]] = []

    def produce(
        self,
        _topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        partition: int = 0,
        on_delivery: Delivered = lambda _error, _message: None,
    ) -> None:
        if self._queue:
            raise BufferError("Local: Queue full")
        self._queue.append((key, value, partition, on_delivery))

    def poll(self, _seconds: float) -> int:
        while self._queue and not self._unavailable:
            key, value, partition, delivered = self._queue.pop()
            self.taken.append((key, value))
            delivered(None, RawMessage(partition, len(self.taken)))
        return 0

    def flush(self, seconds: float) -> int:
        self.poll(seconds)
        return len(self._queue)


class RawMessage:
    """The record of a delivery report."""

    def __init__(self, partition: int, offset: int) -> None:
        self.partition, self.offset = lambda: partition, lambda: offset


def refused(offset: int) -> RefusedRecord:
    return RefusedRecord(RecordPosition("outcomes", 0, offset), "recorder", b"u", b"%d" % offset, "", None)


def test_dead_letters_wait_for_room_in_the_queue_and_none_is_lost(settings: Settings) -> None:
    producer = Narrow()
    producer.produce("another's", key=None, value=b"before")
    DeadLetterBox(settings, producer).put(DeadLetter("outcomes", 0, 1, b"", b"", "", "recorder"))
    assert len(producer.taken) == 2


def test_more_refused_records_than_the_queue_holds_are_sent_again(settings: Settings) -> None:
    engine, producer = connect(settings.database.get_secret_value()), Narrow()
    resend(settings, engine, [refused(n) for n in range(5)], producer)
    engine.dispose()
    assert producer.taken == [(b"u", b"%d" % n) for n in range(5)]


def test_without_an_answer_of_the_broker_sending_again_is_given_up(settings: Settings) -> None:
    with pytest.raises(ResendError, match="no answer"):
        resend(settings, sa.create_engine("sqlite://"), [refused(n) for n in range(5)], Narrow(unavailable=True))


def test_a_publication_renews_the_lease_while_it_waits_for_room_in_the_queue(settings: Settings) -> None:
    producer, kept = Narrow(), []
    publisher = Publisher(settings, producer, lambda: kept.append(len(producer.taken)))
    publisher.decide(EpochDecision(0, 0, "unchanged", ""), [ItemCounts(0, n, 3, NOTHING, NOTHING) for n in range(3)])
    assert len(producer.taken) == 4
    assert kept == [1, 2]


def test_the_replay_waits_for_a_broker_that_is_slower(settings: Settings) -> None:
    producer = Narrow()
    sender = Sender(settings, [0], [0], 0, producer)
    producer.produce("another's", key=None, value=b"before")
    sender.marker(0, EpochEnd(0, 0))
    sender.flush()
    assert len(producer.taken) == 2
    assert sender.offsets == [3]


def test_a_real_producer_with_a_full_queue_makes_the_sender_wait() -> None:
    nowhere = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "message.timeout.ms": 100}
    producer = Producer(nowhere | {"queue.buffering.max.messages": 1})
    reports: list[object] = []
    for _ in range(2):  # librdkafka looks once per second for what has timed out
        clients.produce_waiting(
            producer, "t", key=None, value=b"x", on_delivery=lambda error, _: reports.append(error.name())
        )
    assert len(reports) == 1
    assert not producer.flush(10)
    assert set(reports) == {"_MSG_TIMED_OUT"}


def test_the_flush_raises_if_the_broker_did_not_take_a_dead_letter() -> None:
    producer = Producer({"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 200, "log_level": 0})
    DeadLetterBox(Settings(), producer).put(DeadLetter("device-events", 0, 7, b"key", b"value", "broken", "device"))
    with pytest.raises(KafkaException, match="timed out"):
        producer.flush(10)
