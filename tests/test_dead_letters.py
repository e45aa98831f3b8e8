from __future__ import annotations

from streams.dead_letters import letter
from streams.records import MAX_BYTES, DeadLetter, Reader, encode


class Message:
    """A record as confluent-kafka gives it."""

    def __init__(self, key: bytes | None, value: bytes | None) -> None:
        self._key, self._value = key, value

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 14


def through(dead: DeadLetter) -> DeadLetter:
    reader: Reader[DeadLetter] = Reader(DeadLetter)
    return reader.decode(encode(dead))


def test_a_dead_letter_says_where_the_record_stood_and_why_it_was_refused() -> None:
    dead = letter("outcomes", Message(b"user", b"garbage"), "no schema number", "recorder")
    assert through(dead) == DeadLetter("outcomes", 3, 14, b"user", b"garbage", "no schema number", "recorder")


def test_a_record_without_key_or_value_has_a_dead_letter_too() -> None:
    assert through(letter("outcomes", Message(None, None), "empty value", "recorder")).value == b""


def test_a_record_as_large_as_the_broker_takes_is_cut_and_says_so() -> None:
    for key, value in ((b"k", b"v" * MAX_BYTES), (b"k" * MAX_BYTES, b"v" * 100_000)):
        dead = through(letter("outcomes", Message(key, value), "too large", "recorder"))
        assert f"the key had {len(key)} bytes, the value {len(value)}" in dead.reason
        assert value.startswith(dead.value)


def test_a_long_reason_does_not_make_the_letter_too_large() -> None:
    dead = letter("outcomes", Message(b"k", b"v" * (MAX_BYTES - 20_001)), "x" * 100_000, "recorder")
    assert len(through(dead).reason) == 1_000
