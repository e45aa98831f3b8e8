"""The writes of one batch of a worker: records to send and rows to write. Nothing is sent or written here."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from streams.codec import Record, encode
from streams.kafka.envelope import max_records, pack_records
from streams.kafka.message import Message, trace_headers
from streams.kafka.types import Headers
from streams.process import telemetry
from streams.process.log_throttle import LogThrottle
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, Topic

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Deferred(Protocol[T_co]):
    """A record or row whose values are computed at the end of the batch."""

    def resolve(self) -> T_co:
        """Return the record or row with the computed values."""


class PendingRows(Generic[T]):
    """Rows of one kind: those of the table, with the changes of the batch on top."""

    def __init__(self, table: Mapping[bytes, bytes], read: Callable[[bytes | None], T]) -> None:
        """`read` decodes a row; it gets None for a key without a row."""
        self._table, self._read = table, read
        self._known: dict[bytes, T] = {}
        self._changed: dict[bytes, bool] = {}  # keys in the order of their first change; False: deleted

    def get(self, key: bytes) -> T:
        """Return the row under `key` as the batch has left it so far."""
        if key not in self._known:
            self._known[key] = self._read(self._table.get(key))
        return self._known[key]

    def put(self, key: bytes, row: T) -> None:
        """Change the row under `key`."""
        self._known[key] = row
        self._changed[key] = True

    def delete(self, key: bytes) -> None:
        """Delete the row under `key`."""
        self._known[key] = self._read(None)
        self._changed[key] = False

    def changed(self) -> Iterator[tuple[bytes, T | None]]:
        """Yield the keys and rows that changed; None: deleted."""
        return ((key, self._known[key] if kept else None) for key, kept in self._changed.items())


class ChangedRows(Protocol):
    """Rows of one kind that changed; None deletes."""

    def changed(self) -> Iterator[tuple[bytes, Struct | Deferred[Struct] | None]]:
        """Yield the keys and rows that changed."""


class PendingWrites:
    """The records and rows that result from a batch.

    Records of one partition keep their order; rows are written kind after kind.
    """

    def __init__(self, settings: Settings, role: str, *rows: ChangedRows) -> None:
        """`rows` are the kinds of rows in the order of writing."""
        self._settings, self._role, self._rows = settings, role, rows
        self._records: list[tuple[Topic, int, bytes, Record | Deferred[Record] | bytes, str]] = []
        self.trace = ""  # of the records that are added from now on
        self._refused: Counter[str] = Counter()
        self.sent: Counter[type] = Counter()  # records by type, counted while `records` is read
        self.sent_bytes: Counter[Topic] = Counter()  # bytes by topic, counted while `records` is read

    def send(self, topic: Topic, partition: int, key: bytes, record: Record | Deferred[Record] | bytes) -> None:
        """Add a record, or the bytes of one."""
        self._records.append((topic, partition, key, record, self.trace))

    def refuse(self, message: Message, reason: str) -> None:
        """Send `message` to the dead letters."""
        log.warning("%s refused: %s", message.position, reason)
        self._refused[message.topic] += 1
        self.send(DEAD_LETTERS, 0, message.topic.encode(), message.refused(reason, self._role))

    def records(self) -> Iterator[tuple[str, int, bytes, bytes, Headers]]:
        """Yield topic, partition, key, value and headers of each Kafka record to send, partition after partition.

        A record with a trace gets no company in an envelope.
        """
        by_partition: defaultdict[tuple[Topic, int], list[tuple[bytes, bytes, str]]] = defaultdict(list)
        for topic, partition, key, deferred, trace in self._records:
            record = deferred if isinstance(deferred, Record | bytes) else deferred.resolve()
            value = record if isinstance(record, bytes) else encode(record)
            self.sent[type(record)] += 1
            self.sent_bytes[topic] += len(value)
            by_partition[topic, partition].append((key, value, trace))
        for (topic, partition), records in by_partition.items():
            for trace, some in groupby(records, itemgetter(2)):
                headers = trace_headers(trace)
                per_envelope = 1 if trace else max_records(topic, self._settings)
                for key, value, _ in pack_records([(key, value) for key, value, _ in some], per_envelope):
                    yield topic.full(self._settings), partition, key, value, headers

    def rows(self) -> Iterator[tuple[bytes, Struct | None]]:
        """Yield key and row of each row to write, in this order; None deletes."""
        for rows in self._rows:
            for key, row in rows.changed():
                yield key, row if row is None or isinstance(row, Struct) else row.resolve()

    def count_refused(self) -> None:
        """Add the dead letters to the metrics."""
        for topic, refused in self._refused.items():
            telemetry.DEAD_LETTERS.labels(self._role, topic).inc(refused)
