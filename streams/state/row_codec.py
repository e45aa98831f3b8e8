"""Encoding of the workers' table rows, and the fencing epochs by which rows of a former owner are recognised.

A value is the fencing epoch of its writer (u4, big-endian), a CRC-32 over epoch and row (u4, big-endian), and the row
as a MessagePack array. The same bytes are kept in memory, in the changelog and in the RocksDB snapshot.

Kafka does not fence off plain producers. A worker that was paused and lost its partitions meanwhile finishes its batch
when it wakes up, and its rows then follow those of the new owner in the changelog. The fencing epoch is the generation
of the consumer group under which the writer was assigned the partition: a reader that starts at the beginning of a
partition drops every row whose epoch is older than one seen before. No event is lost with it: the former owner could
not commit the events behind that row, and the new owner has applied them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

import msgspec

S = TypeVar("S")

_EPOCH_BYTES = 4
_HEADER_BYTES = 8  # epoch and CRC-32
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type[object], msgspec.msgpack.Decoder[object]] = {}


class StateError(ValueError):
    """A row of a table is damaged."""


def encode_row(row: msgspec.Struct, fencing_epoch: int = 0) -> bytes:
    """Return the bytes of `row`; epoch 0 is for copies that no worker writes."""
    epoch, data = fencing_epoch.to_bytes(_EPOCH_BYTES, "big"), _encoder.encode(row)
    return epoch + zlib.crc32(data, zlib.crc32(epoch)).to_bytes(_HEADER_BYTES - _EPOCH_BYTES, "big") + data


def without_fencing_epoch(value: bytes) -> bytes:
    """Return the bytes of the same row with epoch 0: the same whichever worker wrote it."""
    epoch, data = bytes(_EPOCH_BYTES), memoryview(value)[_HEADER_BYTES:]
    return b"".join((epoch, zlib.crc32(data, zlib.crc32(epoch)).to_bytes(_HEADER_BYTES - _EPOCH_BYTES, "big"), data))


def decode_row(value: bytes, kind: type[S]) -> S:
    """Return the row in `value`. Raises StateError if it is damaged or not of this kind."""
    read_fencing_epoch(value)
    return decode_checked_row(value, kind)


def row_or_new(kind: type[S]) -> Callable[[bytes | None], S]:
    """Return a reader of rows of this kind, which gives a new row for None."""
    return lambda value: kind() if value is None else decode_row(value, kind)


def decode_checked_row(value: bytes, kind: type[S]) -> S:
    """Return the row in `value`, whose fencing epoch was read. Raises StateError if it is not of this kind."""
    decoder = _decoders.get(kind) or _decoders.setdefault(kind, msgspec.msgpack.Decoder(kind))
    try:
        row = decoder.decode(memoryview(value)[_HEADER_BYTES:])
    except msgspec.MsgspecError as error:
        raise StateError(f"{kind.__name__} of {len(value)} bytes: {error}") from error
    assert isinstance(row, kind)
    return row


def read_fencing_epoch(value: bytes) -> int:
    """Return the fencing epoch of a row. Raises StateError if the row is damaged."""
    epoch, checksum, data = value[:_EPOCH_BYTES], value[_EPOCH_BYTES:_HEADER_BYTES], memoryview(value)[_HEADER_BYTES:]
    if not data or zlib.crc32(data, zlib.crc32(epoch)) != int.from_bytes(checksum, "big"):
        raise StateError(f"row of {len(value)} bytes: wrong checksum")
    return int.from_bytes(epoch, "big")


class FencingEpochs:
    """The newest fencing epoch seen in each partition."""

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}

    def admits(self, partition: int, epoch: int) -> bool:
        """Return True if `epoch` is not older than one seen before in the partition, and note it."""
        if epoch < self.newest(partition):
            return False
        self._newest[partition] = epoch
        return True

    def newest(self, partition: int) -> int:
        """Return the newest epoch of a partition's rows, 0 if none was seen."""
        return self._newest.get(partition, 0)

    def forget(self, partition: int) -> None:
        """Forget a partition that will be read again from its beginning, where epochs are old."""
        self._newest.pop(partition, None)

    def after_assignment(self, partition: int, generation: int) -> int:
        """Return the epoch under which a worker that is assigned the partition writes.

        It is the group's generation, or one more than the newest epoch if the broker lost its groups and counts
        generations from 1 again.
        """
        newest = self.newest(partition)
        return generation if generation >= newest else newest + 1
