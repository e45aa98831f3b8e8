"""Which partition a user and a table's row belong to: the rule of Kafka's Java client, librdkafka's murmur2_random."""

from __future__ import annotations

import functools

from aiokafka.partitioner import murmur2

SEPARATOR = b"\0"  # no user has it: user rows, "user \0 seq" and "\0 partition" never meet


@functools.lru_cache(maxsize=1 << 18)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record with `key`, of `partitions`."""
    partition: int = (murmur2(key) & 0x7FFFFFFF) % partitions
    return partition


def partition_key(partition: int) -> bytes:
    """The key of a partition's own row in a worker's table."""
    return SEPARATOR + partition.to_bytes(4, "big")


def is_partition(key: bytes) -> bool:
    """Whether a partition's own row stands under `key`."""
    return key.startswith(SEPARATOR)


def locate(key: bytes, partitions: int) -> int:
    """The partition of a table's row: its own number, or that of its user."""
    if is_partition(key):
        return int.from_bytes(key[1:], "big")
    return partition_of(key.partition(SEPARATOR)[0], partitions)
