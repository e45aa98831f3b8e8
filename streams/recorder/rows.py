"""Rows of the tables, built from records, and the checks that refuse a record. Pure.

Device and recorder refuse the same batches, so the tables hold what the devices applied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, repeat
from typing import NamedTuple

import msgspec

from models.data.impression_groups import same_group
from streams.codec import RecordError
from streams.kafka.message import Message, check_batch
from streams.kafka.types import TopicPartition
from streams.recorder.state_snapshots import Changed
from streams.records import LATEST, ClickUpload, DeadLetter, DeviceBatch, NegativeMemory, Outcome, Versions, item_key
from streams.state.numbering import Applied, key_hash, with_idempotency_key, with_seq
from streams.topics import DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES

ROLE = "recorder"
Row = tuple[object, ...]  # in the order of its table's columns

_LARGE = frozenset({"seq", "time", "window", "target", "r2_age", "asked_wall", "answered_wall", "offset"})
_INT32 = 1 << 31


class Recorded(NamedTuple):
    """The recorded data of a run on which later rows depend."""

    expected: dict[str, int]  # number of the next event, by user
    names: set[str]  # of the known items
    keys: dict[str, list[Applied]]  # the last idempotency keys, by user


@dataclass
class Buffer:
    """The part of an epoch that was read and is not in the tables yet."""

    interactions: list[Row] = field(default_factory=list)
    items: list[Row] = field(default_factory=list)
    memories: list[Row] = field(default_factory=list)
    uploads: list[Row] = field(default_factory=list)
    dead_letters: list[Row] = field(default_factory=list)
    keys: list[Row] = field(default_factory=list)
    forgotten: dict[tuple[str, str], None] = field(default_factory=dict)  # topic, user: to be deleted before all else
    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    states: dict[TopicPartition, dict[str, Changed]] = field(default_factory=dict)  # newest of each user, per changelog

    def emptied(self) -> Buffer:
        """Return the rest once the plain rows are written: what is written for an epoch as a whole."""
        return Buffer(outcomes=self.outcomes, states=self.states)

    @property
    def rows(self) -> int:
        """The number of rows that can be written before the epoch ends."""
        return sum(map(len, (self.interactions, self.memories, self.uploads, self.dead_letters, self.keys)))


class RowBuilder:
    """Builds the rows of a run, given what is recorded."""

    def __init__(self, run: str, dim: int, partitions: int, recorded: Recorded) -> None:
        self._run, self._dim, self._partitions = run, dim, partitions
        self._expected, self._names, self._keys = recorded
        self.buffer = Buffer()

    def batch(self, record: DeviceBatch, message: Message, epoch: int) -> None:
        """Add the new events of a batch. Raises RecordError if the devices refuse the batch."""
        message.check_user(record.user, self._partitions)
        check_batch(record)
        expected, keys = self._expected.get(record.user, 0), self._keys.get(record.user, [])
        of_user = with_seq(record, expected, keys)
        if of_user is None:
            return
        record = of_user
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
            repeat(epoch),
            repeat(record.user),
            count(record.seq),
            map(item_key, record.items),
            record.kinds,
            record.times,
            group_times(record),
            record.impressions,
            strict=False,
        )
        self.buffer.interactions += list(rows)[expected - record.seq :]
        self._expected[record.user] = end
        if record.key:
            self._keys[record.user] = with_idempotency_key(keys, record)
            self.buffer.keys.append((self._run, record.user, record.seq, key_hash(record.key)))

    def memory(self, record: NegativeMemory, message: Message, wall: int) -> None:
        """Add a negative memory."""
        message.check_user(record.user, self._partitions)
        check_numbers(record)
        record.r2.expect("r2", "<f4", (self._dim,))
        row = (record.user, record.window, record.encoder, record.r2.data, record.size, record.time)
        self.buffer.memories.append((self._run, *row, wall))

    def upload(self, record: ClickUpload, message: Message, wall: int) -> None:
        """Add uploaded clicks."""
        message.check_user(record.user, self._partitions)
        check_numbers(record)
        record.items.expect("items", "<i8", (None,))
        self.buffer.uploads.append((self._run, record.user, record.epoch, record.items.data, record.time, wall))

    def outcome(self, record: Outcome, message: Message) -> None:
        """Add an outcome, unless one of the same click is buffered already."""
        message.check_user(record.user, self._partitions)
        check_numbers(record)
        if record.statistics_epoch is not None and record.statistics_epoch > record.epoch:
            raise RecordError(f"item statistics of epoch {record.statistics_epoch} for a click of {record.epoch}")
        listed = record.candidates.expect("candidates", "<i8", (None,))
        if not record.target_index < len(listed) or listed[record.target_index] != record.target:
            raise RecordError(f"the target is not at index {record.target_index} of {len(listed)} candidates")
        for variant, rank in record.ranks.items():
            if not 1 <= rank <= len(listed) or not variant.isascii() or not variant.isidentifier() or len(variant) > 32:
                raise RecordError(f"rank {rank} of {len(listed)} by {variant[:40]!r}")
        self.buffer.outcomes.setdefault((record.user, record.seq), record)

    def forget(self, user: str, source: TopicPartition) -> None:
        """Drop a user's buffered rows that came from a partition; `flush` deletes those in the tables."""
        buffer = self.buffer
        buffer.forgotten[source.topic, user] = None
        if source.topic == DEVICE_EVENTS.name:
            self._expected.pop(user, None)
            self._keys.pop(user, None)
            buffer.interactions = [row for row in buffer.interactions if row[2] != user]
            buffer.keys = [row for row in buffer.keys if row[1] != user]
            buffer.dead_letters = [row for row in buffer.dead_letters if row[6] != user.encode()]
        elif source.topic == DEVICE_UPLINK.name:
            buffer.memories = [row for row in buffer.memories if row[1] != user]
            buffer.uploads = [row for row in buffer.uploads if row[1] != user]
        elif source.topic == OUTCOMES.name:
            buffer.outcomes = {key: each for key, each in buffer.outcomes.items() if key[0] != user}
        else:
            buffer.states.get(source, {}).pop(user, None)

    def state(self, changed: Changed, changelog: TopicPartition) -> None:
        """Add a user's state, over an older one of the same epoch."""
        self.buffer.states.setdefault(changelog, {})[changed.user] = changed

    def dead_letter(self, dead: DeadLetter, wall: int) -> None:
        """Add a dead letter; characters and lengths that the tables do not hold are replaced and cut."""
        check_numbers(dead)
        topic, role, reason = (text.replace("\0", "\ufffd") for text in (dead.topic, dead.role, dead.reason))
        source = (topic, dead.partition, dead.offset, dead.envelope_index, role[:16])
        self.buffer.dead_letters.append((self._run, *source, dead.key, dead.value, reason, wall, None))


def group_times(batch: DeviceBatch) -> list[int]:
    """Return for each event the time of the first event of its impression group."""
    times = batch.times[:]
    for i in range(1, len(times)):
        if same_group(batch.impressions[i - 1], batch.impressions[i]):
            times[i] = times[i - 1]
    return times


def check_numbers(record: msgspec.Struct) -> None:
    """Raise RecordError if a number is negative or too large for its column."""
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, Versions):
            check_numbers(value)
        elif isinstance(value, int):
            limit = (1 << 63) if name == "target" else LATEST if name in _LARGE else _INT32
            if not 0 <= value < limit:
                raise RecordError(f"{name} is {value}: negative or too large")


def outcome_row(run: str, o: Outcome, ranks: dict[str, int], served: str, wall: int) -> Row:
    """Return the row of an outcome with the ranks of all variants."""
    v = o.versions
    return (
        *(run, o.user, o.seq, o.epoch, o.time, o.target, o.target_index, o.candidates.data, o.slate, o.cold, o.expired),
        *(ranks, o.not_finite, v.release, v.encoder, v.slow, v.fast, o.window, o.r2_age, o.history),
        *(o.bytes_up, o.bytes_down, o.asked_wall, o.answered_wall, wall, o.statistics_epoch, served),
    )
