"""The encoding of every record value: one schema byte, then the record as a MessagePack array.

Adding a field at the end with a default keeps older readers working; any other change raises `SCHEMA`, and the number
of the records that it concerns. A reader accepts older numbers and refuses newer ones. `streams/records.py` lists the
records themselves.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

SCHEMA = 3  # 1: `DeviceBatch` has no `sent_wall`; 2: there are no envelopes
MAX_BYTES = 1_000_000  # of one encoded record; larger ones are refused on both sides

Array = NDArray[Any]  # of a record: its dtype comes with the data


class RecordError(ValueError):
    """A value that cannot be read: not MessagePack, of an unknown kind, of a newer schema, or too large."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Base class of every record."""

    first_byte: ClassVar[bytes] = b"\x02"  # schema number of the last change to this class


R = TypeVar("R", bound=Record)


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """An array inside a record."""

    dtype: Literal["<f2", "<f4", "<i8"]  # numpy's name, little-endian
    shape: tuple[int, ...]  # length per dimension
    data: bytes  # the numbers in C order

    @classmethod
    def of(cls, array: ArrayLike, dtype: Literal["<f2", "<f4", "<i8"]) -> Tensor:
        """Return `array` cast to `dtype`."""
        packed: Array = np.ascontiguousarray(array, dtype=dtype)
        return cls(dtype, packed.shape, packed.tobytes())

    def array(self) -> Array:
        """Return the array, read-only. Raises RecordError if shape and bytes disagree."""
        if min(self.shape, default=0) < 0 or math.prod(self.shape) * int(self.dtype[2]) != len(self.data):
            raise RecordError(f"tensor of shape {self.shape} and dtype {self.dtype} holds {len(self.data)} bytes")
        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)

    def expect(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> Array:
        """Return the array, read-only. Raises RecordError about `name` if dtype or shape differ; None: any length."""
        alike = [wanted in (length, None) for length, wanted in zip(self.shape, shape, strict=False)]
        if self.dtype != dtype or len(self.shape) != len(shape) or not all(alike):
            expected = str(shape).replace("None", "n")
            raise RecordError(f"{name} is {self.dtype} {self.shape}, not {dtype} {expected}")
        return self.array()


_encoder = msgspec.msgpack.Encoder()


def encode(record: Record) -> bytes:
    """Return the record's bytes. Raises RecordError if they exceed MAX_BYTES."""
    data = record.first_byte + _encoder.encode(record)
    if len(data) > MAX_BYTES:
        raise RecordError(f"{type(record).__name__} of {len(data)} bytes: at most {MAX_BYTES} are allowed")
    return data


class Reader(Generic[R]):
    """Decodes the records of one topic: `Reader(Uplink)`."""

    def __init__(self, kinds: object) -> None:
        """`kinds` is one of the unions in `streams/records.py`, or one record type."""
        self._decoder = msgspec.msgpack.Decoder(kinds)

    def decode(self, data: bytes | None) -> R:
        """Return the record in `data`. Raises RecordError if there is none or this version cannot read it."""
        if not data:
            raise RecordError("empty value")
        if len(data) > MAX_BYTES:
            raise RecordError(f"{len(data)} bytes: at most {MAX_BYTES} are allowed")
        if not 1 <= data[0] <= 127:
            raise RecordError(f"first byte {data[0]} is no schema number")
        if data[0] > SCHEMA:
            raise RecordError(f"schema {data[0]} is newer than {SCHEMA}: upgrade this process")
        try:
            record: R = self._decoder.decode(data[1:])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError(str(error)) from error
        return record
