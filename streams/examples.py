"""Online examples between the bus and the nets: checked, in rows of a catalogue, and as bytes to be carried over."""

from __future__ import annotations

import msgspec
import numpy as np

from models.catalogue import Catalogue
from models.online import FastBatchExample
from streams.records import FastExample, Reader, RecordError, encode
from streams.standing import buckets_array

NEGATIVES = 4
_PICK = np.arange(1 + NEGATIVES)

_reader: Reader[FastExample] = Reader(FastExample)


def check(example: FastExample, dim: int) -> None:
    """Raise RecordError where the shapes of an example don't fit each other, or a prior is not finite."""
    items = example.items.array()
    if items.ndim != 1 or len(items) < 2:
        raise RecordError(f"items of shape {items.shape}: a click and a negative at least are needed")
    for name in ("clicks", "exposures", "items"):
        tensor = getattr(example, name)
        if tensor.dtype != "<i8" or tensor.array().ndim != 1:
            raise RecordError(f"{name} is {tensor.dtype} {tensor.shape}, not keys in a row")
    buckets_array(example.standing, len(items))
    for name in ("r_t", "r_n"):
        prior = getattr(example, name)
        if prior.dtype != "<f2" or prior.array().shape != (len(items), dim):
            raise RecordError(f"{name} is {prior.dtype} {prior.shape}, not <f2 {(len(items), dim)}")
        if not np.isfinite(prior.array()).all():
            raise RecordError(f"{name} has a number that is not finite")


def in_rows(example: FastExample, catalogue: Catalogue) -> FastBatchExample:
    """The example in rows of E, with exactly NEGATIVES negatives: fewer ones are repeated in turn."""
    items = example.items.array()
    pick = np.where(_PICK == 0, 0, 1 + (_PICK - 1) % (len(items) - 1))
    return FastBatchExample(
        clicks=catalogue.rows(example.clicks.array()),
        exposures=catalogue.rows(example.exposures.array()),
        items=catalogue.rows(items)[pick],
        r_t=example.r_t.array()[pick],
        r_n=example.r_n.array()[pick],
        standing=buckets_array(example.standing, len(items))[pick],
    )


def to_bytes(examples: list[FastExample]) -> bytes:
    """Examples as bytes."""
    return msgspec.msgpack.encode([encode(example) for example in examples])


def from_bytes(data: bytes) -> list[FastExample]:
    """What `to_bytes` was given."""
    return [_reader.decode(each) for each in msgspec.msgpack.decode(data, type=list[bytes])]
