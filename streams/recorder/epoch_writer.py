"""The recorder without Kafka: records in by the order of their partitions, transactions out.

An epoch is written in one transaction with the offsets to go on from and the progress that others wait for: a crash
before it leaves nothing, after it everything. Long epochs write their plain rows early. What is kept in memory is a
function of the tables, so that starting, starting again, and a database that was away for a while are the same thing.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Table

from streams.codec import Reader, RecordError
from streams.database import schema
from streams.database.engine import copy_new, insert_new, upsert
from streams.kafka.message import Message
from streams.prequential.evaluator import Judged, Prequential, clicks_of
from streams.process import telemetry
from streams.process.log_throttle import Bounded
from streams.recorder import state_snapshots
from streams.recorder.epoch_barrier import EpochBarrier, Place
from streams.recorder.metric_rows import drift_rows, point_rows, show
from streams.recorder.rows import ROLE, Buffer, Row, RowBuilder, outcome_row
from streams.records import (
    ClickUpload,
    DeadLetter,
    DeviceBatch,
    DeviceEvent,
    EndOfLog,
    EpochEnd,
    NegativeMemory,
    Outcome,
    OutcomeEvent,
    Uplink,
)
from streams.settings import Settings
from streams.state.row_codec import FencingEpochs
from streams.topics import CLOUD_STATE, DEAD_LETTERS, DEVICE_EVENTS, DEVICE_STATE, DEVICE_UPLINK, OUTCOMES

log = logging.getLogger(__name__)
log.addFilter(Bounded())

EARLY_ROWS = 50_000  # from here on rows are written before their epoch is over
CHANGELOGS = (DEVICE_STATE, CLOUD_STATE)
MARKED = (DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES, *CHANGELOGS)
_WHOLE = {topic.name for topic in (OUTCOMES, *CHANGELOGS)}  # written by whole epochs only
_LETTERS: Place = (DEAD_LETTERS.name, 0)

_readers: dict[str, Reader[Any]] = {
    DEVICE_EVENTS.name: Reader(DeviceEvent),
    DEVICE_UPLINK.name: Reader(Uplink),
    OUTCOMES.name: Reader(OutcomeEvent),
    DEAD_LETTERS.name: Reader(DeadLetter),
}


class OvertakenError(RuntimeError):
    """Another recorder of the same run has written meanwhile: this one must stop."""


class EpochWriter:
    """What is recorded of a run. `clock` gives the wall time in ms."""

    def __init__(
        self, settings: Settings, engine: Engine, clock: Callable[[], int], early_rows: int = EARLY_ROWS
    ) -> None:
        self._early_rows = early_rows
        self._settings, self._run, self._engine, self._clock = settings, settings.run, engine, clock
        with engine.begin() as connection:
            epoch, self._committed = self._standing(connection)
            self.prequential = Prequential.recorded(connection, settings, epoch)
            expected, names = _known(connection, self._run)
        places = [(topic.name, p) for topic in MARKED for p in range(topic.partitions(settings))]
        self.barrier = EpochBarrier(places, self._committed, epoch + 1)
        self._letters = self._committed.get(_LETTERS, 0)
        self._terms = {topic.name: FencingEpochs() for topic in CHANGELOGS}
        self._held: defaultdict[Place, list[Message]] = defaultdict(list)
        self._recording = RowBuilder(self._run, settings.dim, settings.partitions, expected, names)

    def positions(self) -> dict[Place, int]:
        """Where to go on reading."""
        return {place: lane.next for place, lane in self.barrier.lanes.items()} | {_LETTERS: self._letters}

    def take(self, received: Message) -> None:
        """Take in a record; what can't be read becomes a dead letter, what is behind a mark waits."""
        place = received.topic, received.partition
        if place == _LETTERS:
            if received.offset < self._letters:
                return
            self._letters = received.offset + 1
        elif self.barrier.lanes[place].mark is not None:
            self._held[place].append(received)
            return
        elif not self.barrier.admits(place, received.offset):
            return
        try:
            if received.topic in state_snapshots.SIDES:
                record: Any = state_snapshots.read(received, self._settings.partitions, self._terms[received.topic])
            else:
                record = _readers[received.topic].decode(received.value)
            self._dispatch(record, received)
        except RecordError as error:
            telemetry.DEAD_LETTERS.labels(ROLE, received.topic).inc()
            log.warning("%s/%d@%d refused: %s", *received[:3], error)
            self._recording.letter(received.refused(str(error), ROLE), self._clock())

    def _dispatch(self, record: Any, received: Message) -> None:
        if isinstance(record, DeviceBatch):
            self._recording.batch(record, received, self.barrier.epoch, self._clock())
        elif isinstance(record, NegativeMemory):
            self._recording.memory(record, received, self._clock())
        elif isinstance(record, ClickUpload):
            self._recording.upload(record, received, self._clock())
        elif isinstance(record, Outcome):
            self._recording.outcome(record, received)
        elif isinstance(record, DeadLetter):
            self._recording.letter(record, self._clock())
        elif isinstance(record, state_snapshots.Changed):
            self._recording.state(record, (received.topic, received.partition))
        elif isinstance(record, EpochEnd | EndOfLog):
            self.barrier.close((received.topic, received.partition), received.offset, record)

    @property
    def ahead(self) -> set[Place]:
        """The lanes in which records are waiting for the next epoch: not to be read on."""
        return {place for place, held in self._held.items() if held}

    @property
    def full(self) -> bool:
        """Whether rows should be written before the epoch is over."""
        return self._recording.buffer.rows >= self._early_rows

    @property
    def letters_wait(self) -> bool:
        """Whether there are dead letters that are not in the tables yet."""
        return bool(self._recording.buffer.letters)

    def flush(self) -> None:
        """Write the plain rows so far. Outcomes and states stay: they are read again after a crash."""
        lanes = self.barrier.lanes.items()
        offsets = {place: lane.before_mark for place, lane in lanes if place[0] not in _WHOLE}
        with self._engine.begin() as connection:
            self._guard(connection)
            written = self._write(connection, self._recording.buffer)
            settled = self._settle(connection, offsets)
        self._done(written, settled, self._recording.buffer.emptied())

    def close_epoch(self) -> None:
        """Write the epoch that is whole, and begin the next with what waits for it."""
        epoch, over = self.barrier.epoch, self.barrier.over
        buffer = self._recording.buffer
        with self._engine.begin() as connection:
            self._guard(connection)
            written = self._write(connection, buffer)
            clicks = clicks_of(connection, self._run, epoch)
            outcomes = self._unrecorded(connection, buffer)
            if over and not clicks and not outcomes:
                epoch -= 1  # the log ended with its last epoch: there is no further one
            else:
                judged = list(self.prequential.epoch(clicks, outcomes))
                written |= self._write_judged(connection, judged, epoch)
            written |= self._write_states(connection, buffer)
            settled = self._settle(connection, self.barrier.after())
            time = self.barrier.time
            row = {"run": self._run, "role": ROLE, "epoch": epoch, "time": time, "over": over}
            upsert(connection, schema.progress, [row])
        self._done(written, settled, Buffer())
        show(self.prequential.quality)
        telemetry.EPOCH.labels(ROLE).set(epoch)
        telemetry.EVENT_TIME.labels(ROLE).set(time / 1000)
        for place in self.barrier.advance():
            for received in self._held.pop(place, []):
                self.take(received)

    def _unrecorded(self, connection: Connection, buffer: Buffer) -> dict[tuple[str, int], Outcome]:
        """The outcomes held that are no repeats of recorded ones."""
        o = schema.outcomes.c
        held = list(buffer.outcomes)
        repeats: set[tuple[str, int]] = set()
        for start in range(0, len(held), 500):
            some = sa.tuple_(o.user, o.seq).in_(held[start : start + 500])
            repeats |= {(u, s) for u, s in connection.execute(sa.select(o.user, o.seq).where(o.run == self._run, some))}
        return {key: outcome for key, outcome in buffer.outcomes.items() if key not in repeats}

    def _write(self, connection: Connection, buffer: Buffer) -> dict[Table, int]:
        plain: dict[Table, list[Row]] = {
            schema.interactions: buffer.interactions,
            schema.items: buffer.items,
            schema.negative_memories: buffer.memories,
            schema.click_uploads: buffer.uploads,
            schema.dead_letters: buffer.letters,
        }
        return {table: copy_new(connection, table, rows) for table, rows in plain.items()}

    def _write_judged(self, connection: Connection, judged: list[Judged], epoch: int) -> dict[Table, int]:
        wall = self._clock()
        rows = [outcome_row(self._run, outcome, epoch, ranks, wall) for outcome, ranks, _ in judged]
        points = point_rows(self._run, epoch, self.barrier.time, self.prequential.quality)
        return {
            schema.outcomes: copy_new(connection, schema.outcomes, rows),
            schema.metric_points: copy_new(connection, schema.metric_points, points),
            schema.drifts: copy_new(connection, schema.drifts, drift_rows(self._run, epoch, judged)),
        }

    def _write_states(self, connection: Connection, buffer: Buffer) -> dict[Table, int]:
        """Write the users' states as of the epochs that their changelogs' marks name: later ones without lockstep."""
        rows = []
        for place, states in buffer.states.items():
            mark = self.barrier.lanes[place].mark
            assert mark is not None
            rows += [
                {"run": self._run, "side": each.side, "user": each.user, "epoch": mark.epoch, "state": each.state}
                for each in states.values()
            ]
        upsert(connection, schema.user_snapshots, rows)
        return {schema.user_snapshots: len(rows)}

    def _settle(self, connection: Connection, offsets: dict[Place, int]) -> dict[Place, int]:
        """Write where to go on reading; return it."""
        settled = self._committed | offsets | {_LETTERS: self._letters}
        rows = [
            {"run": self._run, "consumer": ROLE, "topic": topic, "partition": partition, "offset": offset}
            for (topic, partition), offset in settled.items()
        ]
        upsert(connection, schema.consumer_offsets, rows)
        return settled

    def _done(self, written: dict[Table, int], settled: dict[Place, int], left: Buffer) -> None:
        self._committed, self._recording.buffer = settled, left
        for table, rows in written.items():
            telemetry.RECORDED_ROWS.labels(table.name).inc(rows)

    def _standing(self, connection: Connection) -> tuple[int, dict[Place, int]]:
        """The last epoch that is recorded, -1: none, and the offsets to go on from."""
        first = {"run": self._run, "role": ROLE, "epoch": -1, "time": 0, "over": False}
        insert_new(connection, schema.progress, [first])
        p = schema.progress.c
        epoch = connection.execute(sa.select(p.epoch).where(p.run == self._run, p.role == ROLE)).scalar_one()
        return epoch, self._offsets(connection)

    def _offsets(self, connection: Connection) -> dict[Place, int]:
        c = schema.consumer_offsets.c
        query = sa.select(c.topic, c.partition, c.offset).where(c.run == self._run, c.consumer == ROLE)
        return {(topic, partition): offset for topic, partition, offset in connection.execute(query)}

    def _guard(self, connection: Connection) -> None:
        """Begin to write: others wait. Raises OvertakenError where another recorder has written since."""
        p = schema.progress.c
        connection.execute(sa.update(schema.progress).where(p.run == self._run, p.role == ROLE).values(role=ROLE))
        if self._offsets(connection) != self._committed:
            raise OvertakenError(f"another recorder of run {self._run} is at work: one is enough")


def _known(connection: Connection, run: str) -> tuple[dict[str, int], set[str]]:
    """The next seq by user, and the names of items."""
    i, names = schema.interactions.c, schema.items.c
    last = sa.select(i.user, sa.func.max(i.seq)).where(i.run == run).group_by(i.user)
    expected = {user: seq + 1 for user, seq in connection.execute(last)}
    return expected, set(connection.execute(sa.select(names.name).where(names.run == run)).scalars())
