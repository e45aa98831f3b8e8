"""What devices put on the topic that is not each event once: records sent again, in the old form, and hostile ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from replay.faults import Faults, chance
from streams.codec import MAX_BYTES, SCHEMA, Record, encode
from streams.records import DeviceBatch, Kind

FLOOD, FLOODED = 200, 0.02  # records of a flood; the share of epochs in which a hostile device makes one
HOLE = 1 << 40  # a number that no device's own events reach

_encoder = msgspec.msgpack.Encoder()


class _OldBatch(Record, frozen=True, tag="batch"):
    """A DeviceBatch of schema 1: it does not say when it was sent."""

    user: str
    seq: int
    items: list[str]
    kinds: bytes
    times: list[int]
    impressions: list[int]


def old_form(batch: DeviceBatch) -> bytes:
    """The batch as an app of schema 1 sends it."""
    old = _OldBatch(batch.user, batch.seq, batch.items, batch.kinds, batch.times, batch.impressions)
    return b"\x01" + _encoder.encode(old)


Sent = tuple[str, bytes, int]  # key, value, events that count


class Transmission:
    """What a fleet with these faults sends. `told` counts it by fault: events, of hostile devices records."""

    def __init__(self, faults: Faults, seed: int, told: Mapping[str, int] | None = None) -> None:
        self._faults, self._seed = faults, seed
        self.told = Counter(told or {})
        self.strangers = frozenset(f"hostile device {n}" for n in range(faults.hostile))

    def records(self, batches: Iterable[DeviceBatch]) -> Iterator[Sent]:
        """The batches as they are sent, those that come again behind the others."""
        again = []
        for batch in batches:
            yield batch.user, self._encoded(batch), len(batch.items)
            if self.repeated(batch):
                again.append(batch)
        for batch in again:
            self.told["duplicates"] += len(batch.items)
            yield batch.user, self._encoded(batch), 0

    def attacks(self, epoch: int, victim: str) -> Iterator[Sent]:
        """What hostile devices send in an epoch."""
        for name, data in self.hostile(epoch, victim):
            self.told["hostile"] += 1
            yield name, data, 0

    def _encoded(self, batch: DeviceBatch) -> bytes:
        if not self.old(batch.user):
            return encode(batch)
        self.told["old"] += len(batch.items)
        return old_form(batch)

    def old(self, user: str) -> bool:
        """Whether this user's app is an old one."""
        return chance("old", self._seed, user, 0) < self._faults.old

    def repeated(self, batch: DeviceBatch) -> bool:
        """Whether the device sends the batch again: it was not told that it had arrived."""
        return chance("duplicates", self._seed, batch.user, batch.seq) < self._faults.duplicates

    def hostile(self, epoch: int, victim: str) -> Iterator[tuple[str, bytes]]:
        """What hostile devices send in an epoch, as (key, value): each is to be refused."""
        for name in sorted(self.strangers):
            if epoch == 0:
                yield name, bytes([SCHEMA]) + bytes(MAX_BYTES)
            garbage = hashlib.shake_128(f"{self._seed}\0{name}\0{epoch}".encode()).digest(100)
            sent = DeviceBatch(name, HOLE, ["0"], bytes([Kind.CLICK]), [0], [0])
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

    def to_refuse(self, epochs: int) -> int:
        """How many records hostile devices send in all."""
        if not self.strangers:
            return 0
        return sum(1 for epoch in range(epochs) for _ in self.hostile(epoch, ""))
