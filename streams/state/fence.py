"""Terms on changelog rows: what a worker writes that has lost its partition meanwhile is told apart, and ignored.

A worker that was stopped (a paused machine, a long collection) and wakes up finishes the batch it was in, and its rows
come after those of the worker that has its partitions by then. Kafka fences off no plain producer. So a row bears the
term of its writer, the generation of the consumer group under which it was assigned the partition; whoever reads a
partition from its beginning drops a row whose term is older than one seen before. Nothing is lost with it: the events
behind it were not committed by the sleeper, and the new owner has worked them off again.
"""

from __future__ import annotations

import zlib

from streams.state.row_codec import StateError

_BYTES = 4  # of a term, and of the CRC-32 behind it: a damaged term would shut out the rows of its true owner


def fenced(term: int, row: bytes) -> bytes:
    """A row as it is written."""
    head = term.to_bytes(_BYTES, "big")
    return head + zlib.crc32(row, zlib.crc32(head)).to_bytes(_BYTES, "big") + row


def unfenced(value: bytes) -> tuple[int, bytes]:
    """The term and the row of what was written. Raises StateError where it is damaged."""
    head, check, row = value[:_BYTES], value[_BYTES : 2 * _BYTES], value[2 * _BYTES :]
    if zlib.crc32(row, zlib.crc32(head)).to_bytes(_BYTES, "big") != check:
        raise StateError(f"a changelog's value of {len(value)} bytes: wrong checksum")
    return int.from_bytes(head, "big"), row


class FencingEpochs:
    """The newest term seen of each partition."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def admits(self, partition: int, term: int) -> bool:
        """Whether a row of this term counts: it is not older than one before it."""
        if term < self.newest(partition):
            return False
        self._seen[partition] = term
        return True

    def newest(self, partition: int) -> int:
        """The newest term of a partition's rows; 0: none was seen."""
        return self._seen.get(partition, 0)

    def forget(self, partition: int) -> None:
        """The partition will be read from its beginning, where terms are old again."""
        self._seen.pop(partition, None)

    def next(self, partition: int, generation: int) -> int:
        """The term of whoever is assigned the partition now. A broker that lost its groups counts from 1 again."""
        seen = self.newest(partition)
        return generation if generation >= seen else seen + 1
