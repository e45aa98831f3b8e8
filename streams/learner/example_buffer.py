"""Collecting the examples of an epoch: held until every partition has marked its end. Pure.

What belongs to an epoch is said by the records, not by when they arrive: so the same log gives the same epochs, also
when a partition runs ahead or a worker that was restarted sends something again.
"""

from __future__ import annotations

from collections.abc import Mapping

from streams.records import EndOfLog, EpochEnd, FastExample

HELD_MOST = 10_000  # examples of a partition that is ahead, about 1 KB each


class ExampleBuffer:
    """Examples and marks of `partitions`; epochs up to `closed` are over for it."""

    def __init__(self, partitions: int, closed: int) -> None:
        self.closed = closed
        self._held: list[dict[int, FastExample]] = [{} for _ in range(partitions)]  # offset -> example
        self._marks: list[dict[int, int]] = [{} for _ in range(partitions)]  # epoch -> offset of its first mark
        self._ends: list[int | None] = [None] * partitions  # offset of the end of the log
        self._next = [0] * partitions

    def put(self, partition: int, offset: int, record: FastExample | EpochEnd | EndOfLog) -> None:
        """Take in a record."""
        self._next[partition] = offset + 1
        if isinstance(record, FastExample):
            if record.epoch > self.closed:  # else it is a repeat
                self._held[partition][offset] = record
            return
        if isinstance(record, EndOfLog) and self._ends[partition] is None:
            self._ends[partition] = offset
        if record.epoch > self.closed:
            self._marks[partition].setdefault(record.epoch, offset)

    def skip(self, partition: int, offset: int) -> None:
        """Pass over a record that was refused."""
        self._next[partition] = offset + 1

    def full(self, partition: int) -> bool:
        """Whether this partition is far ahead of the others: it has ended the epoch and goes on all the same."""
        return len(self._held[partition]) > HELD_MOST and self._has_ended(partition, self.closed + 1)

    def ready(self) -> bool:
        """Whether every partition has ended the next epoch."""
        return all(self._has_ended(p, self.closed + 1) for p in range(len(self._marks)))

    def over(self) -> bool:
        """Whether the log is over in every partition and no epoch is left."""
        return None not in self._ends and not any(self._marks)

    def close(self) -> list[FastExample]:
        """End the next epoch; return its examples in total order (time, user, seq), each once."""
        self.closed += 1
        examples: dict[tuple[int, str, int], FastExample] = {}
        for held in self._held:
            for offset in [offset for offset, example in held.items() if example.epoch <= self.closed]:
                example = held.pop(offset)
                examples.setdefault((example.time, example.user, example.seq), example)
        for marks in self._marks:
            for epoch in [epoch for epoch in marks if epoch <= self.closed]:
                del marks[epoch]
        return [examples[key] for key in sorted(examples)]

    def offsets(self) -> dict[int, int]:
        """Where to read on after a restart with the present `closed`, by partition."""
        ends = [[] if end is None else [end] for end in self._ends]
        held = zip(self._held, self._marks, ends, self._next, strict=True)
        return {
            p: min([*examples, *marks.values(), *end, after]) for p, (examples, marks, end, after) in enumerate(held)
        }

    def resume(self, offsets: Mapping[int, int]) -> None:
        """Note where reading begins."""
        for partition, offset in offsets.items():
            self._next[partition] = offset

    def _has_ended(self, partition: int, epoch: int) -> bool:
        return any(marked >= epoch for marked in self._marks[partition])
