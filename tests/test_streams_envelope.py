"""Envelopes: what is pack_records is received in its order, within limits; what is damaged is refused as a whole."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.codec import MAX_BYTES, Reader, RecordError, encode
from streams.kafka.envelope import MAX_ENVELOPE_BYTES, pack_records
from streams.kafka.message import Message
from streams.kafka.types import RecordPosition
from streams.records import DeviceBatch, DeviceEvent, Envelope
from streams.topics import DEVICE_EVENTS, DEVICE_STATE

reader: Reader[DeviceBatch] = Reader(DeviceEvent)
SOME = [(b"u", encode(DeviceBatch("u", i, ["1"], b"\1", [i], [0]))) for i in range(5)]


def received(value: bytes, topic: str = DEVICE_EVENTS.name) -> list[Message]:
    return Message.received(topic, 1, 35, b"", value)


@given(st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 40_000)), max_size=30), st.integers(1, 10))
def test_records_come_in_their_order_within_the_limits_and_markers_alone(
    some: list[tuple[bytes, int]], most: int
) -> None:
    records = [(key, bytes(size)) for key, size in some]
    came = []
    for key, value, held in pack_records(records, most):
        messages = Message.received(DEVICE_EVENTS.name, 0, 7, key, value)
        assert len(messages) == held <= most
        assert held == 1 or (len(value) < MAX_ENVELOPE_BYTES + 100 and all(each.key for each in messages))
        assert [each.envelope_index for each in messages] == list(range(held))
        came += [(each.key, each.value) for each in messages]
    assert came == records


def test_a_large_record_and_a_single_one_are_sent_as_they_are() -> None:
    large = (b"u", bytes(MAX_BYTES))
    assert list(pack_records([SOME[0], large, SOME[1]])) == [(*SOME[0], 1), (*large, 1), (*SOME[1], 1)]


def test_each_record_has_a_position_of_its_own() -> None:
    [(_, value, _)] = pack_records(SOME)
    positions = [each.position for each in received(value)]
    assert [str(each) for each in positions[:2]] == ["device-events/1@35", "device-events/1@35.1"]
    assert [RecordPosition.parse(str(each)) for each in positions] == positions
    assert received(value)[3].refused("why", "device").envelope_index == 3


def test_single_records_keep_the_schema_number_that_older_readers_know() -> None:
    assert SOME[0][1][0] == 2
    assert encode(Envelope(SOME))[0] == 3


def test_only_topics_with_envelopes_open_any() -> None:
    [(_, value, _)] = pack_records(SOME)
    assert [each.value for each in received(value, DEVICE_STATE.name)] == [value]


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_envelope_is_refused_as_a_whole_or_in_the_records_that_are_damaged(seed: int) -> None:
    chance = random.Random(seed)
    [(_, value, _)] = pack_records(SOME)
    cut = value[: chance.randrange(1, len(value))]
    [message] = received(cut)
    assert message.value == cut
    with pytest.raises(RecordError):
        reader.decode(message.value)
    at = chance.randrange(len(value))
    for each in received(value[:at] + bytes([value[at] ^ (1 << chance.randrange(8))]) + value[at + 1 :]):
        with suppress(RecordError):  # any other error would stop a worker
            reader.decode(each.value)


@pytest.mark.parametrize("value", [b"\x03\x92\xa7records\x90", encode(Envelope([(b"u", encode(Envelope(SOME)))]))])
def test_an_empty_envelope_and_one_in_another_are_refused(value: bytes) -> None:
    [message] = received(value)
    with pytest.raises(RecordError):
        reader.decode(message.value)
