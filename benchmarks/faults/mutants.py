"""Damaged copies of real records, and the rule that decides if a reader must refuse them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from streams.codec import SCHEMA, Reader, RecordError
from streams.kafka.acl import ACCESS
from streams.records import DeadLetter, DeviceEvent, ExampleEvent, OutcomeEvent, SlowPriors, Uplink
from streams.release_records import EmbeddingRow, ReleaseEvent
from streams.releases.cache import read_part_key
from streams.state.row_codec import StateError, read_fencing_epoch
from streams.topics import (
    CLOUD_DOWNLINK,
    CLOUD_STATE,
    DEAD_LETTERS,
    DEVICE_EVENTS,
    DEVICE_STATE,
    DEVICE_UPLINK,
    FAST_EXAMPLES,
    ITEM_EMBEDDINGS,
    MODEL_RELEASES,
    MODEL_WEIGHTS,
    OUTCOMES,
    TOPICS,
    Topic,
)

# The topics that the processes of a run of a log read: no gateway is one of them, so nobody reads `rankings`.
READ = tuple(each for each in TOPICS if any(each in ACCESS[role].read for role in ACCESS if role != "gateway"))

READERS: dict[Topic, Reader[Any]] = {
    DEVICE_EVENTS: Reader(DeviceEvent),
    DEVICE_UPLINK: Reader(Uplink),
    CLOUD_DOWNLINK: Reader(SlowPriors),
    OUTCOMES: Reader(OutcomeEvent),
    FAST_EXAMPLES: Reader(ExampleEvent),
    ITEM_EMBEDDINGS: Reader(EmbeddingRow),
    MODEL_RELEASES: Reader(ReleaseEvent),
    DEAD_LETTERS: Reader(DeadLetter),
}
STATES = (DEVICE_STATE, CLOUD_STATE)
_MAX_BYTES = 4_000  # maximal bytes of a record to damage: parts of a release are far larger
_ODD: tuple[Any, ...] = (None, True, -1, 1 << 63, 1.5, float("nan"), "", "\0", "x" * 300, b"\xff" * 9, [], {}, [[]])

Keyed = tuple[bytes, bytes]  # key and value


def mutants(topic: Topic, real: Sequence[Keyed], chance: random.Random) -> Iterator[Keyed | None]:
    """Yield mutants of `real` records of `topic` that its readers must refuse; None for one that they may accept."""
    while True:
        key, value = chance.choice(real) if real else (b"", b"")
        mutant = chance.choice((_flipped, _cut, _spliced, _odd, _random))(value[:_MAX_BYTES], chance)
        if topic.compact or chance.random() < 0.5:  # on a compacted topic the true key would replace the true row
            key = chance.randbytes(chance.randint(1, 12))
        yield (key, mutant) if refused(topic, key, mutant) else None


def refused(topic: Topic, key: bytes, value: bytes) -> bool:
    """Return True if a record must be refused: it cannot be decoded, or its key is not its user's."""
    if not value and topic.compact:  # a tombstone
        return False
    try:
        if topic is MODEL_WEIGHTS:
            read_part_key(key)
        elif topic in STATES:
            read_fencing_epoch(value)
        elif (user := getattr(READERS[topic].decode(value), "user", None)) is not None:
            return bool(user.encode() != key)
    except (RecordError, StateError):
        return topic not in STATES or b"\0" not in key  # a request without an answer is no state: no role reads it
    return False


def _flipped(value: bytes, chance: random.Random) -> bytes:
    """Flip a few bits."""
    damaged = bytearray(value)
    for _ in range(chance.randint(1, 8) if damaged else 0):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _cut(value: bytes, chance: random.Random) -> bytes:
    """Cut the end off, or append bytes."""
    return value[: chance.randint(0, len(value))] + chance.randbytes(chance.choice((0, 0, 3)))


def _spliced(value: bytes, chance: random.Random) -> bytes:
    """Move a piece to another position."""
    start, end, to = sorted(chance.randint(0, len(value)) for _ in range(3))
    return value[:start] + value[end:to] + value[start:end] + value[to:]


def _odd(value: bytes, chance: random.Random) -> bytes:
    """Replace one field of a well-formed record by an odd value."""
    try:
        fields = msgspec.msgpack.decode(value[1:])
    except msgspec.MsgspecError:
        return _flipped(value, chance)
    within = fields
    while isinstance(within, list) and within:
        place = chance.randrange(len(within))
        if not isinstance(within[place], list) or chance.random() < 0.5:
            within[place] = chance.choice(_ODD)
            break
        within = within[place]
    return bytes([SCHEMA]) + msgspec.msgpack.encode(fields)


def _random(value: bytes, chance: random.Random) -> bytes:
    """Return a schema number followed by noise."""
    return bytes([chance.choice((SCHEMA, chance.randrange(256)))]) + chance.randbytes(chance.randint(0, len(value)))
