"""Faults in sending: duplicate records, records of the old schema, and records of hostile devices."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from replay.faults import Faults, chance
from streams.codec import MAX_BYTES, SCHEMA, Record, encode
from streams.records import DeviceBatch, Kind

FLOOD, FLOODED = 200, 0.02  # records of a flood; share of epochs in which a hostile device sends one
GAP = 1 << 40  # a sequence number that no device reaches

_encoder = msgspec.msgpack.Encoder()


class _OldBatch(Record, frozen=True, tag="batch"):
    """A DeviceBatch of schema 1, without the time of sending."""

    user: str
    seq: int
    items: list[str]
    kinds: bytes
    times: list[int]
    impressions: list[int]


def encode_schema_1(batch: DeviceBatch) -> bytes:
    """Encode the batch as an app of schema 1 does."""
    old = _OldBatch(batch.user, batch.seq, batch.items, batch.kinds, batch.times, batch.impressions)
    return b"\x01" + _encoder.encode(old)


class OutgoingRecord(NamedTuple):
    """A record to send."""

    user: str
    value: bytes
    events: int  # new events in it


class FaultInjection:
    """The records that devices with these faults send. `counts` holds events by fault; for `hostile`, records."""

    def __init__(self, faults: Faults, seed: int, counts: Mapping[str, int] | None = None) -> None:
        self._faults, self._seed = faults, seed
        self.counts = Counter(counts or {})
        self.hostile_users = frozenset(f"hostile device {n}" for n in range(faults.hostile))

    def records(self, batches: Iterable[DeviceBatch]) -> Iterator[OutgoingRecord]:
        """Yield the batches as records; duplicates follow after the others."""
        duplicates = []
        for batch in batches:
            yield OutgoingRecord(batch.user, self._encoded(batch), len(batch.items))
            if self.repeated(batch):
                duplicates.append(batch)
        for batch in duplicates:
            self.counts["duplicates"] += len(batch.items)
            yield OutgoingRecord(batch.user, self._encoded(batch), 0)

    def attacks(self, epoch: int, victim: str) -> Iterator[OutgoingRecord]:
        """Yield and count the records that hostile devices send in an epoch."""
        for name, value in self.hostile(epoch, victim):
            self.counts["hostile"] += 1
            yield OutgoingRecord(name, value, 0)

    def _encoded(self, batch: DeviceBatch) -> bytes:
        if not self.old(batch.user):
            return encode(batch)
        self.counts["old"] += len(batch.items)
        return encode_schema_1(batch)

    def old(self, user: str) -> bool:
        """Return True if the app of this user writes schema 1."""
        return chance("old", self._seed, user, 0) < self._faults.old

    def repeated(self, batch: DeviceBatch) -> bool:
        """Return True if the device sends the batch twice: the acknowledgement was lost."""
        return chance("duplicates", self._seed, batch.user, batch.seq) < self._faults.duplicates

    def hostile(self, epoch: int, victim: str) -> Iterator[tuple[str, bytes]]:
        """Yield what hostile devices send in an epoch, as (key, value): processors must refuse each record."""
        for name in sorted(self.hostile_users):
            if epoch == 0:
                yield name, bytes([SCHEMA]) + bytes(MAX_BYTES)
            garbage = hashlib.shake_128(f"{self._seed}\0{name}\0{epoch}".encode()).digest(100)
            sent = DeviceBatch(name, GAP, ["0"], bytes([Kind.CLICK]), [0], [0])
            bad = (
                garbage,
                bytes([SCHEMA + 1]) + encode(sent)[1:],
                encode(msgspec.structs.replace(sent, times=[])),
                encode(msgspec.structs.replace(sent, user=victim, seq=0)),
                encode(sent),
            )
            yield name, bad[int(chance("hostile", self._seed, name, epoch) * len(bad))]
            if chance("flood", self._seed, name, epoch) < FLOODED:
                for _ in range(FLOOD):
                    yield name, garbage

    def hostile_records(self, epochs: int) -> int:
        """Return the number of records that hostile devices send in `epochs` epochs."""
        if not self.hostile_users:
            return 0
        return sum(1 for epoch in range(epochs) for _ in self.hostile(epoch, ""))
