"""Rows of the workers' tables as bytes: a MessagePack array behind its CRC-32, so that damage is noticed."""

from __future__ import annotations

import functools
import zlib
from typing import Any, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)
_encoder = msgspec.msgpack.Encoder()


class StateError(ValueError):
    """A row of a table is damaged."""


@functools.cache
def _decoder(kind: type[Any]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def pack(row: msgspec.Struct) -> bytes:
    """The row's bytes."""
    data = _encoder.encode(row)
    return zlib.crc32(data).to_bytes(4, "little") + data


def unpack(data: bytes, kind: type[S]) -> S:
    """The row in `data`. Raises StateError where it is damaged or another kind of row."""
    if len(data) <= 4 or zlib.crc32(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
        raise StateError(f"{kind.__name__} of {len(data)} bytes: wrong checksum")
    try:
        row: S = _decoder(kind).decode(memoryview(data)[4:])
    except msgspec.MsgspecError as error:
        raise StateError(f"{kind.__name__} of {len(data)} bytes: {error}") from error
    return row
