"""Conversions of online examples: check of a record, rows of a catalogue for the nets, bytes for the next epoch."""

from __future__ import annotations

import msgspec
import numpy as np

from models.data.catalogue import Catalogue
from models.training.online import FastBatchExample
from streams.codec import Reader, RecordError, encode
from streams.records import EXAMPLE_NEGATIVES, FastExample
from streams.releases.item_statistics import buckets_array

_PICK = np.arange(1 + EXAMPLE_NEGATIVES)

_reader: Reader[FastExample] = Reader(FastExample)


def check(example: FastExample, dim: int) -> None:
    """Raise RecordError if the shapes of an example don't fit each other, or a prior is not finite."""
    n = len(example.items.expect("items", "<i8", (None,)))
    if n < 2:
        raise RecordError(f"{n} items: at least a click and a negative are needed")
    example.clicks.expect("clicks", "<i8", (None,))
    example.exposures.expect("exposures", "<i8", (None,))
    buckets_array(example.item_statistics, n)
    for name, prior in (("r_t", example.r_t), ("r_n", example.r_n)):
        if not np.isfinite(prior.expect(name, "<f2", (n, dim))).all():
            raise RecordError(f"{name} has a number that is not finite")
    if example.f2s is not None and not np.isfinite(example.f2s.expect("f2s", "<f4", (n,))).all():
        raise RecordError("f2s has a number that is not finite")


def in_rows(example: FastExample, catalogue: Catalogue, with_neighbours: Catalogue) -> FastBatchExample:
    """Return the example in rows of E, with exactly EXAMPLE_NEGATIVES negatives: fewer ones are repeated cyclically.

    `with_neighbours` are the items of the item neighbours.
    """
    items = example.items.array()
    pick = np.where(_PICK == 0, 0, 1 + (_PICK - 1) % (len(items) - 1))
    return FastBatchExample(
        clicks=catalogue.rows(example.clicks.array()),
        exposures=catalogue.rows(example.exposures.array()),
        items=catalogue.rows(items)[pick],
        r_t=example.r_t.array()[pick],
        r_n=example.r_n.array()[pick],
        item_statistics=buckets_array(example.item_statistics, len(items))[pick],
        f2s=np.zeros(len(pick), np.float32) if example.f2s is None else example.f2s.array()[pick],
        near=(with_neighbours.rows(example.clicks.array()), with_neighbours.rows(items)[pick]),
    )


def to_bytes(examples: list[FastExample]) -> bytes:
    """Return the examples as bytes."""
    return msgspec.msgpack.encode([encode(example) for example in examples])


def from_bytes(data: bytes) -> list[FastExample]:
    """Return the examples in the bytes of `to_bytes`."""
    return [_reader.decode(each) for each in msgspec.msgpack.decode(data, type=list[bytes])]
