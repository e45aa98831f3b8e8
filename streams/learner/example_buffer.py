"""The buffer of an epoch's examples, held until every partition has delivered the marker of its end. Pure.

The records themselves name their epoch, not their arrival: the same log gives the same epochs, even if a partition runs
ahead or a restarted worker sends something again.
"""

from __future__ import annotations

from collections.abc import Mapping

from streams.records import EndOfLog, EpochEnd, FastExample

MAX_HELD = 10_000  # examples of a partition that is ahead, about 1 KB each


class ExampleBuffer:
    """Examples and epoch markers of `partitions` partitions; epochs up to `closed` were taken out."""

    def __init__(self, partitions: int, closed: int) -> None:
        self.closed = closed
        self._held: list[dict[tuple[int, int], FastExample]] = [{} for _ in range(partitions)]  # by offset and index
        self._markers: list[dict[int, int]] = [{} for _ in range(partitions)]  # epoch -> offset of its first marker
        self._ends: list[int | None] = [None] * partitions  # offset of the end of the log
        self._next = [0] * partitions

    def put(self, partition: int, offset: int, record: FastExample | EpochEnd | EndOfLog, index: int = 0) -> None:
        """Add a record; `index` is that in its envelope."""
        self._next[partition] = offset + 1
        if isinstance(record, FastExample):
            if record.epoch > self.closed:  # else it is a repeat
                self._held[partition][offset, index] = record
            return
        if isinstance(record, EndOfLog) and self._ends[partition] is None:
            self._ends[partition] = offset
        if record.epoch > self.closed:
            self._markers[partition].setdefault(record.epoch, offset)

    def skip(self, partition: int, offset: int) -> None:
        """Skip a record that was refused."""
        self._next[partition] = offset + 1

    def full(self, partition: int) -> bool:
        """Return True if this partition has ended the epoch and many examples of later epochs are held."""
        return len(self._held[partition]) > MAX_HELD and self._has_ended(partition, self.closed + 1)

    def ready(self) -> bool:
        """Return True if every partition has ended the next epoch."""
        return all(self._has_ended(p, self.closed + 1) for p in range(len(self._markers)))

    def log_ended(self) -> bool:
        """Return True if the log has ended in every partition and no epoch is left."""
        return None not in self._ends and not any(self._markers)

    def close(self) -> list[FastExample]:
        """End the next epoch; return its examples in total order (time, user, seq), each once."""
        self.closed += 1
        examples: dict[tuple[int, str, int], FastExample] = {}
        for held in self._held:
            for position in [position for position, example in held.items() if example.epoch <= self.closed]:
                example = held.pop(position)
                examples.setdefault((example.time, example.user, example.seq), example)
        for markers in self._markers:
            for epoch in [epoch for epoch in markers if epoch <= self.closed]:
                del markers[epoch]
        return [examples[key] for key in sorted(examples)]

    def offsets(self) -> dict[int, int]:
        """Return for each partition the offset to start from after a restart with the present `closed`."""
        ends = [[] if end is None else [end] for end in self._ends]
        columns = zip(self._held, self._markers, ends, self._next, strict=True)
        return {
            p: min([*(offset for offset, _ in examples), *markers.values(), *end, after])
            for p, (examples, markers, end, after) in enumerate(columns)
        }

    def resume(self, offsets: Mapping[int, int]) -> None:
        """Note the offsets that are read first."""
        for partition, offset in offsets.items():
            self._next[partition] = offset

    def _has_ended(self, partition: int, epoch: int) -> bool:
        return any(marker >= epoch for marker in self._markers[partition])
