"""A producer's queue has room for so many records: whoever sends more waits for the broker."""

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
from streams.records import DeadLetter, EpochDecision, EpochEnd, ItemCounts
from streams.settings import Settings

Delivered = Callable[[Any, Any], object]
NOTHING = Tensor("<i8", (0,), b"")


class Narrow:
    """A producer with room for one record, which a broker takes when it is polled; `away`: none ever does."""

    def __init__(self, *, away: bool = False) -> None:
        self.taken: list[tuple[bytes | None, bytes | None]] = []
        self._away = away
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
        while self._queue and not self._away:
            key, value, partition, delivered = self._queue.pop()
            self.taken.append((key, value))
            delivered(None, RawMessage(partition, len(self.taken)))
        return 0

    def flush(self, seconds: float) -> int:
        self.poll(seconds)
        return len(self._queue)


class RawMessage:
    """What a delivery report says of a record."""

    def __init__(self, partition: int, offset: int) -> None:
        self.partition, self.offset = lambda: partition, lambda: offset


def refused(offset: int) -> RefusedRecord:
    return RefusedRecord(RecordPosition("outcomes", 0, offset), "recorder", b"u", b"%d" % offset, "", None)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Narrow:
    """Every producer that is made."""
    producer = Narrow()
    monkeypatch.setattr(clients, "producer", lambda *_, **__: producer)
    return producer


def test_dead_letters_beyond_the_queue_wait_and_none_is_lost(settings: Settings) -> None:
    producer = Narrow()
    producer.produce("another's", key=None, value=b"before")
    DeadLetterBox(settings, producer).put(DeadLetter("outcomes", 0, 1, b"", b"", "", "recorder"))
    assert len(producer.taken) == 2


def test_letters_beyond_the_queue_are_sent_again(settings: Settings, narrow: Narrow) -> None:
    engine = connect(settings.database.get_secret_value())
    resend(settings, engine, [refused(n) for n in range(5)])
    engine.dispose()
    assert narrow.taken == [(b"u", b"%d" % n) for n in range(5)]


def test_letters_that_a_broker_which_is_away_does_not_take_are_given_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "producer", lambda *_, **__: Narrow(away=True))
    with pytest.raises(ResendError, match="no answer"):
        resend(settings, sa.create_engine("sqlite://"), [refused(n) for n in range(5)])


def test_a_publication_beyond_the_queue_waits_and_keeps_its_lease_meanwhile(settings: Settings) -> None:
    producer, kept = Narrow(), []
    publisher = Publisher(settings, producer, lambda: kept.append(len(producer.taken)))
    publisher.decide(EpochDecision(0, 0, "unchanged", ""), [ItemCounts(0, n, 3, NOTHING, NOTHING) for n in range(3)])
    assert len(producer.taken) == 4
    assert kept == [1, 2]


def test_the_replay_waits_for_a_broker_that_is_slower(settings: Settings, narrow: Narrow) -> None:
    sender = Sender(settings, [0], [0], 0)
    narrow.produce("another's", key=None, value=b"before")
    sender.marker(0, EpochEnd(0, 0))
    sender.flush()
    assert len(narrow.taken) == 2
    assert sender.offsets == [3]


def test_a_real_producer_with_a_full_queue_is_waited_for() -> None:
    nowhere = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "message.timeout.ms": 100}
    producer = Producer(nowhere | {"queue.buffering.max.messages": 1})
    reports: list[object] = []
    for _ in range(3):
        clients.produce_waiting(
            producer, "t", key=None, value=b"x", on_delivery=lambda error, _: reports.append(error.name())
        )
    assert len(reports) == 2
    assert not producer.flush(10)
    assert set(reports) == {"_MSG_TIMED_OUT"}


def test_a_dead_letter_that_the_broker_did_not_take_is_told_by_the_flush() -> None:
    producer = Producer({"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 200, "log_level": 0})
    DeadLetterBox(Settings(), producer).put(DeadLetter("device-events", 0, 7, b"key", b"value", "broken", "device"))
    with pytest.raises(KafkaException, match="timed out"):
        producer.flush(10)
