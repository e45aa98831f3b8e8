"""Envelopes: many records of one partition in one Kafka record, to reduce the cost per record.

Brokers, producers and Faust workers need about as much time for a record of one event as for one of a thousand. Readers
unpack envelopes; their records share an offset and have an index in the envelope.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from streams.codec import MAX_BYTES, encode
from streams.records import Envelope
from streams.settings import Settings
from streams.topics import Topic

MAX_RECORDS = 512  # in an envelope: a worker's batch may exceed `Settings.take_max` by this number
MAX_ENVELOPE_BYTES = 64_000  # of an envelope: a worker keeps up to a few thousand unread ones
_OVERHEAD = 10  # bytes of a record in an envelope beside its key and its value, at most

KeyValue = tuple[bytes, bytes]

_BEGINS = encode(Envelope([(b"", b"")]))[:10]  # schema number, length of the array, tag
_decoder = msgspec.msgpack.Decoder(Envelope)


def max_records(topic: Topic, settings: Settings) -> int:
    """Return the largest number of records that a Kafka record of `topic` holds."""
    return MAX_RECORDS if topic.envelopes and settings.envelopes else 1


def pack_records(records: Iterable[KeyValue], maximum: int = MAX_RECORDS) -> Iterator[tuple[bytes, bytes, int]]:
    """Pack the records of one partition, in order: yield key, value and number of records of each Kafka record to send.

    An epoch marker, which has no key, and a record that would exceed MAX_ENVELOPE_BYTES are sent without an envelope.
    """
    pending: list[KeyValue] = []
    size = 0
    for key, value in records:
        record_size = len(key) + len(value) + _OVERHEAD
        if pending and (not key or size + record_size > MAX_ENVELOPE_BYTES or len(pending) >= maximum):
            yield _pack(pending)
            pending, size = [], 0
        if key:
            pending.append((key, value))
            size += record_size
        else:
            yield key, value, 1
    if pending:
        yield _pack(pending)


def _pack(records: list[KeyValue]) -> tuple[bytes, bytes, int]:
    if len(records) == 1:
        return *records[0], 1
    return b"", encode(Envelope(records)), len(records)


def unpack_envelope(value: bytes) -> list[KeyValue] | None:
    """Return the records in an envelope; None if the value is not an envelope or is damaged."""
    if not value.startswith(_BEGINS) or len(value) > MAX_BYTES:
        return None
    try:
        return _decoder.decode(memoryview(value)[1:]).records
    except msgspec.MsgspecError:
        return None
