"""Envelopes: many records of one partition as one Kafka record, of which brokers and clients then handle fewer.

A broker, a producer and a Faust worker cost as much for a record of one event as for one of a thousand. Readers see the
records in an envelope as if each had come alone; they share its offset and have an index in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from streams.codec import MAX_BYTES, encode
from streams.records import Envelope
from streams.settings import Settings
from streams.topics import Topic

MOST_RECORDS = 512  # a worker's batch is at most so much larger than its setting says
MOST_BYTES = 64_000  # of an envelope: a worker keeps up to a few thousand unread ones
_OVERHEAD = 10  # bytes of a record in an envelope beside its key and its value, at most

KeyValue = tuple[bytes, bytes]

_BEGINS = encode(Envelope([(b"", b"")]))[:10]  # schema number, length of the array, tag
_decoder = msgspec.msgpack.Decoder(Envelope)


def most_records(topic: Topic, settings: Settings) -> int:
    """Return the largest number of records that a Kafka record of `topic` holds."""
    return MOST_RECORDS if topic.envelopes and settings.envelopes else 1


def sealed(records: Iterable[KeyValue], most: int = MOST_RECORDS) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield key, value and number of records of each Kafka record to send, for the records of one partition in order.

    An epoch marker, which has no key, is sent alone, and so is a record that is too large for company.
    """
    held: list[KeyValue] = []
    size = 0
    for key, value in records:
        own = len(key) + len(value) + _OVERHEAD
        if held and (not key or size + own > MOST_BYTES or len(held) >= most):
            yield _seal(held)
            held, size = [], 0
        if key:
            held.append((key, value))
            size += own
        else:
            yield key, value, 1
    if held:
        yield _seal(held)


def _seal(records: list[KeyValue]) -> tuple[bytes, bytes, int]:
    if len(records) == 1:
        return *records[0], 1
    return b"", encode(Envelope(records)), len(records)


def opened(value: bytes) -> list[KeyValue] | None:
    """Return the records in an envelope; None if the value is none, or is damaged and to be refused as it is."""
    if not value.startswith(_BEGINS) or len(value) > MAX_BYTES:
        return None
    try:
        return _decoder.decode(memoryview(value)[1:]).records
    except msgspec.MsgspecError:
        return None
