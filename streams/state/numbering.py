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

Applied = int | tuple[int, int]  # the hash of an applied batch's key, with that of its body if it is known


def key_hash(key: str) -> int:
    """Return the 63-bit hash of an idempotency key that is stored."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


def with_seq(batch: DeviceBatch, expected: int, keys: Sequence[Applied]) -> DeviceBatch | None:
    """Return the batch with `seq`, given the user's next number and last keys; None if its key was applied before."""
    if not batch.key:
        return batch
    key = key_hash(batch.key)
    return None if any(_key(each) == key for each in keys) else replace(batch, seq=expected)


def is_of_other_events(batch: DeviceBatch, keys: Sequence[Applied]) -> bool:
    """Return True if the batch's key was applied with another body; False if one of the bodies is not known.

    The device worker refuses such a batch. For the recorder it is as any whose key was applied: it has no new events.
    """
    key = key_hash(batch.key)
    bodies = {each[1] for each in keys if isinstance(each, tuple) and each[0] == key}
    return bool(batch.body and bodies) and batch.body not in bodies


def with_idempotency_key(keys: Sequence[Applied], batch: DeviceBatch) -> list[Applied]:
    """Return a user's last keys with that of the applied `batch`, if it has one."""
    if not batch.key:
        return list(keys)
    key = key_hash(batch.key)
    return [*keys, (key, batch.body) if batch.body else key][-KEPT_KEYS:]


def _key(applied: Applied) -> int:
    return applied[0] if isinstance(applied, tuple) else applied
