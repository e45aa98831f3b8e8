"""The position of the recorder in each partition, and the end of an epoch in all of them. Pure.

A partition that has delivered the marker of the epoch's end waits until the others have. The committed offset never
passes a marker before the epoch that it ends is in the tables: after a crash the marker is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streams.kafka.types import TopicPartition
from streams.records import EndOfLog, EpochEnd

_ALL = 1 << 62  # more than the records of any envelope


@dataclass
class PartitionCursor:
    """The position in one partition. A `marker`, which is at `marker_offset`, closes it until the epoch ends."""

    next: int = 0  # offset to read next
    index: int = _ALL  # envelope index of the last record read at the offset before `next`
    marker: EpochEnd | EndOfLog | None = None
    marker_offset: int = 0

    @property
    def committable(self) -> int:
        """The offset to start from while the epoch of the marker is not in the tables."""
        return self.next if self.marker is None else self.marker_offset


class EpochBarrier:
    """The cursors of the partitions that carry epoch markers; `epoch` is the one that is being read."""

    def __init__(self, partitions: Iterable[TopicPartition], offsets: Mapping[TopicPartition, int], epoch: int) -> None:
        self.epoch = epoch
        self.cursors = {partition: PartitionCursor(offsets.get(partition, 0)) for partition in partitions}

    def is_new(self, partition: TopicPartition, offset: int, index: int = 0) -> bool:
        """Return True if the record is new, and move the cursor past it. The cursor must be open."""
        cursor = self.cursors[partition]
        if (offset, index) <= (cursor.next - 1, cursor.index):
            return False
        cursor.next, cursor.index = offset + 1, index
        return True

    def close(self, partition: TopicPartition, offset: int, marker: EpochEnd | EndOfLog) -> None:
        """Close a cursor at its marker; the marker of an earlier epoch is a repeat and ignored."""
        if marker.epoch >= self.epoch or isinstance(marker, EndOfLog):
            self.cursors[partition].marker, self.cursors[partition].marker_offset = marker, offset

    @property
    def complete(self) -> bool:
        """True if the epoch has ended in every partition."""
        return all(cursor.marker is not None for cursor in self.cursors.values())

    @property
    def log_ended(self) -> bool:
        """True if the log has ended in every partition."""
        return all(isinstance(cursor.marker, EndOfLog) for cursor in self.cursors.values())

    @property
    def time(self) -> int:
        """The event time of the markers; 0 if there are none."""
        return max((cursor.marker.time for cursor in self.cursors.values() if cursor.marker is not None), default=0)

    def offsets_after(self) -> dict[TopicPartition, int]:
        """Return the offsets to start from once this epoch, which is complete, is in the tables."""
        return {
            partition: cursor.next if self._is_settled(cursor) else cursor.marker_offset
            for partition, cursor in self.cursors.items()
        }

    def advance(self) -> list[TopicPartition]:
        """Begin the next epoch; return the partitions that are open again."""
        opened = [partition for partition, cursor in self.cursors.items() if self._is_settled(cursor)]
        if not self.log_ended:
            self.epoch += 1
        for partition in opened:
            self.cursors[partition].marker = None
        return opened

    def _is_settled(self, cursor: PartitionCursor) -> bool:
        """Return True if the end of this epoch settles the cursor's marker."""
        return self.log_ended or (isinstance(cursor.marker, EpochEnd) and cursor.marker.epoch <= self.epoch)
