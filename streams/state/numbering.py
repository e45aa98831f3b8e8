"""Numbers of events whose sender did not number them, by the order in which Kafka has them.

Device and recorder read the same partition in the same order and both apply this rule, so they give the same numbers;
any number of gateways may write, and none has to know what the others wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec.structs import replace

from streams.records import DeviceBatch

KEPT_KEYS = 128  # of a user: a batch that is repeated after so many others is applied twice


def key_number(key: str) -> int:
    """Return an idempotency key as a number below 2^63, as it is kept."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


def numbered(batch: DeviceBatch, expected: int, keys: Sequence[int]) -> DeviceBatch | None:
    """Return the batch with its number, given the user's next one and last keys; None if it was applied before."""
    if not batch.key:
        return batch
    return None if key_number(batch.key) in keys else replace(batch, seq=expected)


def with_key(keys: Sequence[int], batch: DeviceBatch) -> list[int]:
    """Return a user's last keys after a batch was applied."""
    return [*keys, key_number(batch.key)][-KEPT_KEYS:] if batch.key else list(keys)
