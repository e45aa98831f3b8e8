"""A copy on this disk of what a changelog says: a worker that starts again reads only what has come since.

Faust's own RocksDB table takes a row when it is set, before the changelog has it. Killed in between it is ahead for
good: the event comes again and is passed over as a repeat, the changelog never gets the row, and whoever takes the
partition over finds a hole. Here rows are served from memory, and RocksDB gets them when the changelog has them: it is
the changelog up to an offset that stands in the same write, never ahead of it. A partition's copy is given up where
another worker's rows come in between.
"""

from __future__ import annotations

import logging
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from streams.faust_runtime.outbox import KeyValue
from streams.kafka.partitioner import SEPARATOR
from streams.settings import SettingsError
from streams.state.row_codec import StateError, read_fencing_epoch

log = logging.getLogger(__name__)

_HEAD = SEPARATOR + b"offset"  # longer than a partition's own key, and no user begins so
_HEAD_FORMAT = struct.Struct(">QI")  # offset, newest term


class LocalCopies:
    """The copies of the partitions that this worker has."""

    def __init__(self, folder: Path, changelog: Callable[[], str | None]) -> None:
        """`changelog()` names one life of the topic: another, made under the same name, is no continuation of it.

        Raises SettingsError where RocksDB is not installed.
        """
        try:
            import rocksdict  # noqa: PLC0415 - of an optional extra
        except ImportError as missing:
            raise SettingsError("local_copy needs RocksDB: pip install 'mc2sf[rocksdb]'") from missing
        self._rocksdb: Any = rocksdict
        self._folder, self._changelog = folder, changelog
        self._of: Path | None = None
        self._open: dict[int, Any] = {}
        self._at: dict[int, int] = {}  # offset of the last row in each copy; -1: none yet

    def load(self, partition: int) -> tuple[int, dict[bytes, bytes]]:
        """Open a partition's copy: its newest term and its rows. Where it can't be had there are none."""
        if self._of is None:
            if (life := self._changelog()) is None:
                return 0, {}
            self._of = self._folder / life
        path = self._of / str(partition)
        path.mkdir(parents=True, exist_ok=True)
        options = self._rocksdb.Options(raw_mode=True)
        options.create_if_missing(True)
        try:
            copy = self._rocksdb.Rdict(str(path), options)
        except Exception as error:  # noqa: BLE001 - RocksDB raises nothing more special
            log.warning("no copy of partition %d: %s", partition, error)  # e.g. another worker on this disk has it
            return 0, {}
        self._open[partition], self._at[partition] = copy, -1
        head = copy.get(_HEAD)
        if head is None:
            return 0, {}
        try:
            rows = {key: value for key, value in copy.items() if key != _HEAD}
            for value in rows.values():
                read_fencing_epoch(value)
        except StateError as error:
            log.warning("the copy of partition %d is damaged: %s", partition, error)
            self.give_up(partition)
            return 0, {}
        self._at[partition], term = _HEAD_FORMAT.unpack(head)
        return term, rows

    def offset(self, partition: int) -> int | None:
        """The offset up to which a partition's copy says what the changelog says; None: there is no copy."""
        at = self._at.get(partition, -1)
        return None if at < 0 else at

    def read(self, partition: int, rows: Iterable[KeyValue], last: int, term: int) -> None:
        """Take in rows that were read from the changelog, up to offset `last`."""
        if partition in self._open:
            self._write(partition, rows, last, term)

    def written(self, partition: int, rows: list[KeyValue], last: int, term: int) -> None:
        """Take in rows that this worker wrote, acknowledged up to offset `last`."""
        if partition not in self._open:
            return
        if last - len(rows) != self._at[partition]:
            log.warning("another worker wrote to the changelog of partition %d: its copy is given up", partition)
            self.give_up(partition)
            return
        self._write(partition, rows, last, term)

    def _write(self, partition: int, rows: Iterable[KeyValue], last: int, term: int) -> None:
        batch = self._rocksdb.WriteBatch(raw_mode=True)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(_HEAD, _HEAD_FORMAT.pack(last, term))
        self._open[partition].write(batch)
        self._at[partition] = last

    def close(self, partition: int) -> None:
        """Let go of a copy, which stays on the disk for whoever has the partition next."""
        self._at.pop(partition, None)
        if copy := self._open.pop(partition, None):
            copy.close()

    def give_up(self, partition: int) -> None:
        """Delete a partition's copy; it has none until it is assigned anew."""
        self.close(partition)
        assert self._of is not None
        shutil.rmtree(self._of / str(partition), ignore_errors=True)
