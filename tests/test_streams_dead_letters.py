from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from streams.codec import MAX_BYTES, Reader, encode
from streams.kafka.message import Message
from streams.kafka.types import RecordPosition
from streams.recorder.redelivery import RefusedRecord, ResendError, resend
from streams.records import DeadLetter
from streams.settings import Settings


def refused(key: bytes, value: bytes, reason: str) -> DeadLetter:
    return Message("outcomes", 3, 14, key, value).refused(reason, "recorder")


def through(dead: DeadLetter) -> DeadLetter:
    reader: Reader[DeadLetter] = Reader(DeadLetter)
    return reader.decode(encode(dead))


def test_a_dead_letter_has_the_position_of_the_record_and_the_reason() -> None:
    dead = refused(b"user", b"garbage", "no schema number")
    assert through(dead) == DeadLetter("outcomes", 3, 14, b"user", b"garbage", "no schema number", "recorder")


def test_a_record_without_key_or_value_has_a_dead_letter_too() -> None:
    none = dict.fromkeys(("key", "value", "headers"), lambda: None)
    bare = SimpleNamespace(**none, partition=lambda: 3, offset=lambda: 14)
    dead = Message.of_kafka("outcomes", bare)[0].refused("empty value", "recorder")
    assert through(dead) == DeadLetter("outcomes", 3, 14, b"", b"", "empty value", "recorder")


def test_the_largest_record_is_cut_and_the_reason_says_so() -> None:
    for key, value in ((b"k", b"v" * MAX_BYTES), (b"k" * MAX_BYTES, b"v" * 100_000)):
        dead = through(refused(key, value, "too large"))
        assert f"the key had {len(key)} bytes, the value {len(value)}" in dead.reason
        assert value.startswith(dead.value)


def test_a_record_that_was_cut_is_not_sent_again(settings: Settings) -> None:
    dead = refused(b"k", b"v" * MAX_BYTES, "too large" * 1_000)
    at = RecordPosition(dead.topic, dead.partition, dead.offset)
    record = RefusedRecord(at, dead.role, dead.key, dead.value, dead.reason, None)
    with pytest.raises(ResendError, match="dead letter is truncated"):
        resend(settings, sa.create_engine("sqlite://"), [record])


def test_a_long_reason_does_not_make_the_dead_letter_too_large() -> None:
    dead = refused(b"k", b"v" * (MAX_BYTES - 20_001), "x" * 100_000)
    assert len(through(dead).reason) == 1_000
