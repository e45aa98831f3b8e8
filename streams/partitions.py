"""Which partition a user belongs to: the rule of Kafka's Java client, which librdkafka calls murmur2_random."""

from __future__ import annotations

import functools

from aiokafka.partitioner import murmur2


@functools.lru_cache(maxsize=1 << 18)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record with `key`, of `partitions`."""
    partition: int = (murmur2(key) & 0x7FFFFFFF) % partitions
    return partition
