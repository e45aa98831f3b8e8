"""Sequence numbers for events whose sender did not number them, by their order in Kafka.

Device and recorder read the same partition in the same order and apply this rule, so they assign the same numbers. Any
number of gateways may write, without coordination.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec.structs import replace

from streams.records import DeviceBatch

KEPT_KEYS = 128  # per user: a batch that is repeated after more than this number of others is applied twice


def key_hash(key: str) -> int:
    """Return the 63-bit hash of an idempotency key that is stored."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


def with_seq(batch: DeviceBatch, expected: int, keys: Sequence[int]) -> DeviceBatch | None:
    """Return the batch with `seq`, given the user's next number and last keys; None if it was applied before."""
    if not batch.key:
        return batch
    return None if key_hash(batch.key) in keys else replace(batch, seq=expected)


def with_idempotency_key(keys: Sequence[int], batch: DeviceBatch) -> list[int]:
    """Return a user's last keys with that of the applied `batch`, if it has one."""
    return [*keys, key_hash(batch.key)][-KEPT_KEYS:] if batch.key else list(keys)
