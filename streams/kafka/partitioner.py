"""The partition of a user and of a table's row: the rule of Kafka's Java client, librdkafka's murmur2_random."""

from __future__ import annotations

import functools

from aiokafka.partitioner import murmur2

SEPARATOR = b"\0"  # in no user's name: keys of users, "user \0 seq" and "\0 partition" are never equal


@functools.lru_cache(maxsize=1 << 18)
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a record with `key` in a topic of so many `partitions`."""
    partition: int = (murmur2(key) & 0x7FFFFFFF) % partitions
    return partition


@functools.cache
def partition_key(partition: int) -> bytes:
    """Return the key of a partition's own row in a worker's table."""
    return SEPARATOR + partition.to_bytes(4, "big")


def is_partition_key(key: bytes) -> bool:
    """Return True if `key` is that of a partition's own row."""
    return key.startswith(SEPARATOR)


def partition_of_row(key: bytes, partitions: int) -> int:
    """Return the partition of a table's row: its own number, or that of its user."""
    if is_partition_key(key):
        return int.from_bytes(key[1:], "big")
    return partition_of(key.partition(SEPARATOR)[0], partitions)
