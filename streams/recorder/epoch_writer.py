"""The recorder without Kafka: receives the records of all partitions and writes one transaction per epoch.

An epoch is written in one transaction together with the offsets to start from and the progress that other processes
wait for: a crash before it leaves nothing, after it everything. Long epochs write their plain rows early. The state in
memory is a function of the tables, so a first start, a restart and an outage of the database are handled alike.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from operator import itemgetter

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Table

from streams.codec import Reader, RecordError
from streams.database import schema
from streams.database.engine import copy_new, cut_write_ahead_log, insert_new, upsert
from streams.database.table_sizes import TableSize, table_sizes
from streams.kafka.message import Message
from streams.kafka.types import TopicPartition
from streams.prequential.evaluator import EvaluatedOutcome, PrequentialEvaluator, not_ranked
from streams.prequential.recorded import clicks_of
from streams.process import telemetry
from streams.process.log_throttle import LogThrottle
from streams.recorder import state_snapshots
from streams.recorder.epoch_barrier import EpochBarrier
from streams.recorder.metric_rows import drift_rows, point_rows, show
from streams.recorder.rows import ROLE, Buffer, Row, RowBuilder, outcome_row
from streams.recorder.user_rows import forget, read_recorded, unrecorded
from streams.records import (
    ClickUpload,
    DeadLetter,
    DeviceBatch,
    DeviceEvent,
    EndOfLog,
    EpochEnd,
    Forget,
    NegativeMemory,
    Outcome,
    OutcomeEvent,
    Uplink,
)
from streams.settings import Settings
from streams.state.row_codec import FencingEpochs
from streams.topics import CLOUD_STATE, DEAD_LETTERS, DEVICE_EVENTS, DEVICE_STATE, DEVICE_UPLINK, OUTCOMES

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())

EARLY_ROWS = 50_000  # from here on rows are written before their epoch is over
CHANGELOGS = (DEVICE_STATE, CLOUD_STATE)
MARKED = (DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES, *CHANGELOGS)
_WHOLE = {topic.name for topic in (OUTCOMES, *CHANGELOGS)}  # written by whole epochs only
DEAD_LETTER_PARTITION = TopicPartition(DEAD_LETTERS.name, 0)

_Taken = DeviceEvent | Uplink | OutcomeEvent | DeadLetter | state_snapshots.Changed | None
_Recorded = _Taken | state_snapshots.Deleted
_readers: dict[str, Reader[DeviceBatch] | Reader[NegativeMemory] | Reader[Outcome] | Reader[DeadLetter]] = {
    DEVICE_EVENTS.name: Reader(DeviceEvent),
    DEVICE_UPLINK.name: Reader(Uplink),
    OUTCOMES.name: Reader(OutcomeEvent),
    DEAD_LETTERS.name: Reader(DeadLetter),
}


class OvertakenError(RuntimeError):
    """Another recorder of the same run has written since: this one must stop."""


class EpochWriter:
    """Writes what the recorder reads. `clock` returns wall time in ms; from `early_rows` on rows are written early."""

    def __init__(
        self, settings: Settings, engine: Engine, clock: Callable[[], int], early_rows: int = EARLY_ROWS
    ) -> None:
        self._early_rows = early_rows
        self._settings, self._run, self._engine, self._clock = settings, settings.run, engine, clock
        with engine.begin() as connection:
            epoch, self._without_rank, self._committed = self._progress(connection)
            self.prequential = PrequentialEvaluator.recorded(connection, settings, epoch)
            self._points = list(self.prequential.quality.points())
            recorded = read_recorded(connection, self._run)
        partitions = [TopicPartition(topic.name, p) for topic in MARKED for p in range(topic.partitions(settings))]
        self.barrier = EpochBarrier(partitions, self._committed, epoch + 1)
        self._dead_letters = self._committed.get(DEAD_LETTER_PARTITION, 0)  # offset to read next
        self._fencing_epochs = {topic.name: FencingEpochs() for topic in CHANGELOGS}
        self._held: defaultdict[TopicPartition, list[Message]] = defaultdict(list)  # records behind a marker
        self._early: list[Message] = []  # outcomes of later epochs (free-running: they do not wait for older answers)
        self._rows = RowBuilder(self._run, settings.dim, settings.partitions, recorded)

    def positions(self) -> dict[TopicPartition, int]:
        """Return the offset to read next in each partition."""
        next_offsets = {partition: cursor.next for partition, cursor in self.barrier.cursors.items()}
        return next_offsets | {DEAD_LETTER_PARTITION: self._dead_letters}

    def table_sizes(self) -> list[TableSize]:
        """Return how large the tables are."""
        with self._engine.connect() as connection:
            return table_sizes(connection)

    def add(self, message: Message) -> None:
        """Add a record. An unreadable record becomes a dead letter, a record behind a marker is held."""
        source = message.source
        if source == DEAD_LETTER_PARTITION:
            if message.offset < self._dead_letters:
                return
            self._dead_letters = message.offset + 1
        elif self.barrier.cursors[source].marker is not None:
            self._held[source].append(message)
            return
        elif not self.barrier.is_new(source, message.offset, message.envelope_index):
            return
        self._take(message)

    def _take(self, message: Message) -> None:
        try:
            record = self._decode(message)
            if isinstance(record, Forget | state_snapshots.Deleted):
                self._rows.forget(record.user, message.source)
                if message.topic == OUTCOMES.name:
                    self._early = [each for each in self._early if each.key != message.key]
            else:
                self._dispatch(record, message)
        except RecordError as error:
            self._refuse(message, str(error))

    def _refuse(self, message: Message, reason: str) -> None:
        telemetry.DEAD_LETTERS.labels(ROLE, message.topic).inc()
        log.warning("%s refused: %s", message.position, reason)
        self._rows.dead_letter(message.refused(reason, ROLE), self._clock())

    def _decode(self, message: Message) -> _Recorded:
        if message.topic in state_snapshots.SIDES:
            return state_snapshots.read(message, self._settings.partitions, self._fencing_epochs[message.topic])
        return _readers[message.topic].decode(message.value)

    def _dispatch(self, record: _Taken, message: Message) -> None:
        if isinstance(record, DeviceBatch):
            self._rows.batch(record, message, self.barrier.epoch)
        elif isinstance(record, NegativeMemory):
            self._rows.memory(record, message, self._clock())
        elif isinstance(record, ClickUpload):
            self._rows.upload(record, message, self._clock())
        elif isinstance(record, Outcome):
            if record.epoch > self.barrier.epoch:
                self._early.append(message)
            else:
                self._rows.outcome(record, message)
        elif isinstance(record, DeadLetter):
            self._rows.dead_letter(record, self._clock())
        elif isinstance(record, state_snapshots.Changed):
            self._rows.state(record, message.source)
        elif isinstance(record, EpochEnd | EndOfLog):
            self.barrier.close(message.source, message.offset, record)

    @property
    def ahead(self) -> set[TopicPartition]:
        """The partitions with records that wait for the next epoch, which the recorder must pause."""
        return {partition for partition, held in self._held.items() if held}

    @property
    def full(self) -> bool:
        """True if rows should be written before the epoch ends."""
        return self._rows.buffer.rows >= self._early_rows

    @property
    def has_dead_letters(self) -> bool:
        """True if there are dead letters that are not in the tables yet."""
        return bool(self._rows.buffer.dead_letters)

    def flush(self) -> None:
        """Write the plain rows so far. Outcomes and states stay in memory: after a crash they are read again."""
        cursors = self.barrier.cursors.items()
        offsets = {partition: cursor.committable for partition, cursor in cursors if partition.topic not in _WHOLE}
        with self._engine.begin() as connection:
            self._guard(connection)
            written = self._write(connection, self._rows.buffer)
            committed = self._commit_offsets(connection, offsets)
        self._written(written, committed, self._rows.buffer.emptied())
        cut_write_ahead_log(self._engine)

    def close_epoch(self) -> None:
        """Write the epoch, which is complete, and begin the next one with the records that wait for it."""
        epoch, log_ended, without_rank = self.barrier.epoch, self.barrier.log_ended, self._without_rank
        while log_ended and self._early:
            self._refuse(self._early.pop(), "an outcome of an epoch after the end of the log")
        buffer = self._rows.buffer
        with self._engine.begin() as connection:
            self._guard(connection)
            written = self._write(connection, buffer)
            clicks = clicks_of(connection, self._run, epoch)
            outcomes = unrecorded(connection, self._run, buffer.outcomes)
            if log_ended and not clicks and not outcomes:
                epoch -= 1  # the log ended with its last epoch: there is no further one
            else:
                without_rank += not_ranked(self._settings, clicks, outcomes)
                evaluated = list(self.prequential.epoch(clicks, outcomes))
                written |= self._write_outcomes(connection, evaluated, epoch)
            written |= self._write_states(connection, buffer)
            offsets = self.barrier.offsets_after()
            for message in self._early:  # to be read again after a crash
                offsets[message.source] = min(offsets[message.source], message.offset)
            committed = self._commit_offsets(connection, offsets)
            time = self.barrier.time
            row = {"run": self._run, "role": ROLE, "epoch": epoch, "time": time, "over": log_ended}
            upsert(connection, schema.progress, [row | {"not_ranked": without_rank}])
        self._written(written, committed, Buffer())
        cut_write_ahead_log(self._engine)
        self._without_rank = without_rank
        telemetry.NOT_RANKED.set(without_rank)
        show(self.prequential, self._points)
        telemetry.EPOCH.labels(ROLE).set(epoch)
        telemetry.EVENT_TIME.labels(ROLE).set(time / 1000)
        opened = self.barrier.advance()
        early, self._early = self._early, []
        for message in early:
            self._take(message)
        for partition in opened:
            for message in self._held.pop(partition, []):
                self.add(message)

    def _write(self, connection: Connection, buffer: Buffer) -> dict[Table, int]:
        for topic, user in buffer.forgotten:
            forget(connection, self._run, topic, user, self.barrier.epoch)
        plain: dict[Table, list[Row]] = {
            schema.interactions: sorted(buffer.interactions, key=itemgetter(1, 2, 3)),  # by their key
            schema.items: buffer.items,
            schema.negative_memories: buffer.memories,
            schema.click_uploads: buffer.uploads,
            schema.dead_letters: buffer.dead_letters,
            schema.idempotency_keys: buffer.keys,
        }
        return {table: copy_new(connection, table, rows) for table, rows in plain.items()}

    def _write_outcomes(
        self, connection: Connection, evaluated: list[EvaluatedOutcome], epoch: int
    ) -> dict[Table, int]:
        wall = self._clock()
        rows = [outcome_row(self._run, each.outcome, each.ranks, each.served, wall) for each in evaluated]
        self._points = list(self.prequential.quality.points())
        points = point_rows(self._run, epoch, self.barrier.time, self._points)
        return {
            schema.outcomes: copy_new(connection, schema.outcomes, rows),
            schema.metric_points: copy_new(connection, schema.metric_points, points),
            schema.drifts: copy_new(connection, schema.drifts, drift_rows(self._run, epoch, evaluated)),
        }

    def _write_states(self, connection: Connection, buffer: Buffer) -> dict[Table, int]:
        """Write the users' newest states, as of their changelogs' markers; these may be later ones without lockstep."""
        rows: list[Row] = []
        for partition, states in buffer.states.items():
            marker = self.barrier.cursors[partition].marker
            assert marker is not None
            rows += [(self._run, each.side, each.user, marker.epoch, each.state) for each in states.values()]
        return {schema.user_snapshots: copy_new(connection, schema.user_snapshots, rows, replace=True)}

    def _commit_offsets(self, connection: Connection, offsets: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Write the offsets to start from; return those of all partitions."""
        committed = self._committed | offsets | {DEAD_LETTER_PARTITION: self._dead_letters}
        rows = [
            {"run": self._run, "consumer": ROLE, "topic": topic, "partition": partition, "offset": offset}
            for (topic, partition), offset in committed.items()
        ]
        upsert(connection, schema.consumer_offsets, rows)
        return committed

    def _written(self, written: dict[Table, int], committed: dict[TopicPartition, int], rest: Buffer) -> None:
        self._committed, self._rows.buffer = committed, rest
        for table, rows in written.items():
            telemetry.RECORDED_ROWS.labels(schema.public_name(table)).inc(rows)

    def _progress(self, connection: Connection) -> tuple[int, int, dict[TopicPartition, int]]:
        """Return the last recorded epoch, -1 if there is none, the clicks not ranked, and the offsets to start from."""
        first = {"run": self._run, "role": ROLE, "epoch": -1, "time": 0, "over": False, "not_ranked": 0}
        insert_new(connection, schema.progress, [first])
        p = schema.progress.c
        query = sa.select(p.epoch, p.not_ranked).where(p.run == self._run, p.role == ROLE)
        epoch, without_rank = connection.execute(query).one()
        return epoch, without_rank or 0, self._offsets(connection)

    def _offsets(self, connection: Connection) -> dict[TopicPartition, int]:
        c = schema.consumer_offsets.c
        query = sa.select(c.topic, c.partition, c.offset).where(c.run == self._run, c.consumer == ROLE)
        return {TopicPartition(topic, p): offset for topic, p, offset in connection.execute(query)}

    def _guard(self, connection: Connection) -> None:
        """Lock the run's progress for this transaction. Raises OvertakenError if another recorder has written since."""
        p = schema.progress.c
        connection.execute(sa.update(schema.progress).where(p.run == self._run, p.role == ROLE).values(role=ROLE))
        if self._offsets(connection) != self._committed:
            raise OvertakenError(f"another recorder of run {self._run} is running: stop one of them")
