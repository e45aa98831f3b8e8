"""From records to rows: what is refused, and what each record becomes in the tables. Pure.

Device and recorder refuse the same batches, so that the tables hold what the devices applied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Any

import msgspec

from streams.codec import RecordError
from streams.kafka.message import LATEST, Message, check_batch
from streams.prequential.metrics import Ranked, subsets
from streams.recorder.epoch_barrier import Place
from streams.recorder.state_snapshots import Changed
from streams.records import ClickUpload, DeadLetter, DeviceBatch, NegativeMemory, Outcome, Versions, item_key

ROLE = "recorder"
Row = tuple[Any, ...]

_LARGE = frozenset({"seq", "time", "window", "target", "r2_age", "asked_wall", "answered_wall", "offset"})
_INT32 = 1 << 31


@dataclass
class Buffer:
    """What was read of an epoch and is not in the tables yet. Rows are in the order of their table's columns."""

    interactions: list[Row] = field(default_factory=list)
    items: list[Row] = field(default_factory=list)
    memories: list[Row] = field(default_factory=list)
    uploads: list[Row] = field(default_factory=list)
    letters: list[Row] = field(default_factory=list)
    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    states: dict[Place, dict[str, Changed]] = field(default_factory=dict)  # newest by user, of each changelog

    def emptied(self) -> Buffer:
        """What stays when the plain rows are written: all that belongs to an epoch as a whole."""
        return Buffer(outcomes=self.outcomes, states=self.states)

    @property
    def rows(self) -> int:
        """How many rows could be written before the epoch is over."""
        return sum(map(len, (self.interactions, self.memories, self.uploads, self.letters)))


class RowBuilder:
    """Takes in the records of a run. `expected` is the next seq by user, `names` the item names known already."""

    def __init__(self, run: str, dim: int, partitions: int, expected: dict[str, int], names: set[str]) -> None:
        self._run, self._dim, self._partitions = run, dim, partitions
        self._expected, self._names = expected, names
        self.buffer = Buffer()

    def batch(self, record: DeviceBatch, received: Message, epoch: int, wall: int) -> None:
        """Take in a batch of events, those that are new. Raises RecordError where the devices refuse it."""
        received.check_user(record.user, self._partitions)
        check_batch(record)
        expected = self._expected.get(record.user, 0)
        if record.seq > expected:
            raise RecordError(f"seq {record.seq} behind a missing or refused record: {expected} is expected")
        end = record.seq + len(record.items)
        if end <= expected:
            return
        for name in set(record.items).difference(self._names):
            self._names.add(name)
            self.buffer.items.append((self._run, item_key(name), name))
        rows = zip(
            repeat(self._run),
            repeat(record.user),
            count(record.seq),
            map(item_key, record.items),
            record.kinds,
            record.times,
            unit_times(record),
            record.impressions,
            repeat(epoch),
            repeat(wall),
            strict=False,
        )
        self.buffer.interactions += list(rows)[expected - record.seq :]
        self._expected[record.user] = end

    def memory(self, record: NegativeMemory, received: Message, wall: int) -> None:
        """Take in a negative memory."""
        received.check_user(record.user, self._partitions)
        check_numbers(record)
        record.r2.expect("r2", "<f4", (self._dim,))
        row = (record.user, record.window, record.encoder, record.r2.data, record.size, record.time)
        self.buffer.memories.append((self._run, *row, wall))

    def upload(self, record: ClickUpload, received: Message, wall: int) -> None:
        """Take in uploaded clicks."""
        received.check_user(record.user, self._partitions)
        check_numbers(record)
        record.items.expect("items", "<i8", (None,))
        self.buffer.uploads.append((self._run, record.user, record.epoch, record.items.data, record.time, wall))

    def outcome(self, record: Outcome, received: Message) -> None:
        """Take in an outcome; a repeat of one that is held already is dropped."""
        received.check_user(record.user, self._partitions)
        check_numbers(record)
        listed = record.candidates.expect("candidates", "<i8", (None,))
        if not record.target_index < len(listed) or listed[record.target_index] != record.target:
            raise RecordError(f"the target is not at index {record.target_index} of {len(listed)} candidates")
        for variant, rank in record.ranks.items():
            if not 1 <= rank <= len(listed) or not variant.isascii() or not variant.isidentifier() or len(variant) > 32:
                raise RecordError(f"rank {rank} of {len(listed)} by {variant[:40]!r}")
        self.buffer.outcomes.setdefault((record.user, record.seq), record)

    def state(self, changed: Changed, place: Place) -> None:
        """Take in a user's state; the newest of an epoch counts."""
        self.buffer.states.setdefault(place, {})[changed.user] = changed

    def letter(self, dead: DeadLetter, wall: int) -> None:
        """Take in a dead letter; its words are cut to what the tables hold."""
        check_numbers(dead)
        words = (
            dead.topic.replace("\0", "\ufffd"),
            dead.partition,
            dead.offset,
            dead.role.replace("\0", "\ufffd")[:16],
        )
        reason = dead.reason.replace("\0", "\ufffd")
        self.buffer.letters.append((self._run, *words, dead.key, dead.value, reason, wall, None))


def unit_times(batch: DeviceBatch) -> list[int]:
    """For each event the time of the first event of its unit."""
    times = batch.times[:]
    impressions = batch.impressions
    for i in range(1, len(times)):
        if impressions[i] and impressions[i] == impressions[i - 1]:
            times[i] = times[i - 1]
    return times


def check_numbers(record: msgspec.Struct) -> None:
    """Raise RecordError where a number is negative or larger than its column."""
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, Versions):
            check_numbers(value)
        elif isinstance(value, int):
            limit = (1 << 63) if name == "target" else LATEST if name in _LARGE else _INT32
            if not 0 <= value < limit:
                raise RecordError(f"{name} is {value}: negative or too large")


def ranked(outcome: Outcome, ranks: dict[str, int]) -> Ranked:
    """What quality is measured on."""
    where = subsets(cold=outcome.cold, history=outcome.history, window=outcome.window)
    return Ranked(outcome.time, outcome.candidates.shape[0], where, ranks)


def outcome_row(run: str, o: Outcome, recorded_epoch: int, ranks: dict[str, int], wall: int) -> Row:
    """Return the row of an outcome recorded with epoch `recorded_epoch`, with the ranks of all variants."""
    v = o.versions
    what = (
        o.user,
        o.seq,
        o.epoch,
        recorded_epoch,
        o.time,
        o.target,
        o.target_index,
        o.candidates.data,
        o.slate,
        o.cold,
        o.expired,
        ranks,
    )
    seen = (o.not_finite, v.release, v.encoder, v.slow, v.fast, o.window, o.r2_age, o.history)
    return (run, *what, *seen, o.bytes_up, o.bytes_down, o.asked_wall, o.answered_wall, wall)
