"""Local copies of the changelog in RocksDB: a worker that starts again reads only what has come since.

Faust's own RocksDB table writes a row when it is set, before the changelog has it. A worker that is killed in between
is ahead of the changelog for good: the event comes again and is skipped as a repeat, the changelog never gets the row,
and the next owner of the partition finds a gap. Here rows are served from memory, and RocksDB gets them after the
changelog has acknowledged them, in one write with their offset. So a copy equals the changelog up to that offset and is
never ahead of it. A partition's copy is deleted if rows of another worker come in between.
"""

from __future__ import annotations

import logging
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from streams.faust_runtime.outbox import KeyValue
from streams.kafka.partitioner import SEPARATOR
from streams.settings import SettingsError
from streams.state.row_codec import StateError, read_fencing_epoch

if TYPE_CHECKING:
    from rocksdict import Rdict

log = logging.getLogger(__name__)

_HEAD = SEPARATOR + b"offset"  # longer than a partition's own key, and no user begins so
_HEAD_FORMAT = struct.Struct(">QI")  # offset, newest fencing epoch


class LocalCopies:
    """The copies of the partitions that this worker owns."""

    def __init__(self, folder: Path, topic_id: Callable[[], str | None]) -> None:
        """`topic_id` identifies the changelog: a topic that was deleted and created again is not continued.

        Raises SettingsError if RocksDB is not installed.
        """
        try:
            import rocksdict  # noqa: PLC0415 - of an optional extra
        except ImportError as missing:
            raise SettingsError("MC2SF_LOCAL_COPY needs RocksDB: pip install 'mc2sf[rocksdb]'") from missing
        self._rocksdb = rocksdict
        self._folder, self._topic_id = folder, topic_id
        self._topic_folder: Path | None = None
        self._open: dict[int, Rdict] = {}
        self._last: dict[int, int] = {}  # offset of the last row in each copy; -1: none yet

    def load(self, partition: int) -> tuple[int, dict[bytes, bytes]]:
        """Open a partition's copy; return its newest fencing epoch and its rows, none if it cannot be used."""
        if self._topic_folder is None:
            if (topic_id := self._topic_id()) is None:
                return 0, {}
            self._topic_folder = self._folder / topic_id
        path = self._topic_folder / str(partition)
        path.mkdir(parents=True, exist_ok=True)
        options = self._rocksdb.Options(raw_mode=True)
        options.create_if_missing(True)
        try:
            copy = self._rocksdb.Rdict(str(path), options)
        except Exception as error:  # noqa: BLE001 - RocksDB raises nothing more specific
            log.warning("no copy of partition %d: %s", partition, error)  # e.g. locked by another worker on this disk
            return 0, {}
        self._open[partition], self._last[partition] = copy, -1
        head = copy.get(_HEAD)
        if head is None:
            return 0, {}
        rows: dict[bytes, bytes] = {k: v for k, v in copy.items() if isinstance(k, bytes) and k != _HEAD}
        try:
            for value in rows.values():
                read_fencing_epoch(value)
        except StateError as error:
            log.warning("the copy of partition %d is damaged: %s", partition, error)
            self.delete(partition)
            return 0, {}
        self._last[partition], epoch = _HEAD_FORMAT.unpack(head)
        return epoch, rows

    def offset(self, partition: int) -> int | None:
        """Return the changelog's offset up to which a copy equals it, or None without a copy."""
        last = self._last.get(partition, -1)
        return None if last < 0 else last

    def add_read(self, partition: int, rows: Iterable[KeyValue], last: int, epoch: int) -> None:
        """Add rows that were read from the changelog, up to offset `last`."""
        if partition in self._open:
            self._write(partition, rows, last, epoch)

    def add_written(self, partition: int, rows: list[KeyValue], last: int, epoch: int) -> None:
        """Add rows that this worker wrote and the changelog acknowledged up to offset `last`."""
        if partition not in self._open:
            return
        if last - len(rows) != self._last[partition]:
            log.warning("another worker wrote to the changelog of partition %d: its copy is deleted", partition)
            self.delete(partition)
            return
        self._write(partition, rows, last, epoch)

    def _write(self, partition: int, rows: Iterable[KeyValue], last: int, epoch: int) -> None:
        batch = self._rocksdb.WriteBatch(raw_mode=True)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(_HEAD, _HEAD_FORMAT.pack(last, epoch))
        self._open[partition].write(batch)
        self._last[partition] = last

    def close(self, partition: int) -> None:
        """Close a copy; it stays on the disk for the next owner of the partition."""
        self._last.pop(partition, None)
        if copy := self._open.pop(partition, None):
            copy.close()

    def delete(self, partition: int) -> None:
        """Delete a partition's copy; it has none until it is assigned again."""
        self.close(partition)
        assert self._topic_folder is not None
        shutil.rmtree(self._topic_folder / str(partition), ignore_errors=True)
