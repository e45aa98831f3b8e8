"""How far the recorder has read each partition, and when an epoch is over in all of them. Pure.

A partition that has marked the end of the epoch has to wait until the others have. What is committed never passes a
mark before the epoch that it ends is in the tables: after a crash the mark is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streams.records import EndOfLog, EpochEnd

Place = tuple[str, int]  # topic without prefix, partition


@dataclass
class PartitionCursor:
    """One partition. `next` is the next offset to read; `mark`, which stood at `marked`, closes the lane."""

    next: int = 0
    mark: EpochEnd | EndOfLog | None = None
    marked: int = 0

    @property
    def before_mark(self) -> int:
        """The offset to go on from while the mark's epoch is not in the tables."""
        return self.next if self.mark is None else self.marked


class EpochBarrier:
    """The lanes that bear marks; `epoch` is the one that is being read."""

    def __init__(self, places: Iterable[Place], positions: Mapping[Place, int], epoch: int) -> None:
        self.epoch = epoch
        self.lanes = {place: PartitionCursor(positions.get(place, 0)) for place in places}

    def admits(self, place: Place, offset: int) -> bool:
        """Whether this record is to be taken in now or, false, was before. Not to be asked of a closed lane."""
        lane = self.lanes[place]
        if offset < lane.next:
            return False
        lane.next = offset + 1
        return True

    def close(self, place: Place, offset: int, mark: EpochEnd | EndOfLog) -> None:
        """Take in a mark; one of an epoch that is over is a repeat."""
        if mark.epoch >= self.epoch or isinstance(mark, EndOfLog):
            self.lanes[place].mark, self.lanes[place].marked = mark, offset

    @property
    def whole(self) -> bool:
        """Whether the epoch is over in every lane."""
        return all(lane.mark is not None for lane in self.lanes.values())

    @property
    def over(self) -> bool:
        """Whether the log is over in every lane."""
        return all(isinstance(lane.mark, EndOfLog) for lane in self.lanes.values())

    @property
    def time(self) -> int:
        """The event time that the marks tell."""
        return max((lane.mark.time for lane in self.lanes.values() if lane.mark is not None), default=0)

    def after(self) -> dict[Place, int]:
        """The offsets to go on from once this epoch, which is whole, is in the tables."""
        return {place: lane.next if self._passes(lane) else lane.marked for place, lane in self.lanes.items()}

    def advance(self) -> list[Place]:
        """Begin the next epoch; return the lanes that are open again."""
        opened = [place for place, lane in self.lanes.items() if self._passes(lane)]
        if not self.over:
            self.epoch += 1
        for place in opened:
            self.lanes[place].mark = None
        return opened

    def _passes(self, lane: PartitionCursor) -> bool:
        """Whether the lane's mark is done with when this epoch is."""
        return self.over or (isinstance(lane.mark, EpochEnd) and lane.mark.epoch <= self.epoch)
