"""A worker's table: a changelog whose writes are awaited, rows that know their partition, and a local copy.

Faust's own table sends its changelog and never waits for it, so it can lose rows behind committed offsets. It also
keeps the rows of a partition that went to another worker, which are out of date when the partition comes back.
"""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import faust
from faust.types import TP
from msgspec import Struct

from streams.faust_runtime.app import PlatformApp
from streams.faust_runtime.outbox import KeyValue, Outbox
from streams.faust_runtime.rocksdb_snapshot import LocalCopies
from streams.faust_runtime.types import FaustEvent
from streams.kafka import topic_admin
from streams.process import telemetry
from streams.process.health import HEALTH
from streams.process.log_throttle import LogThrottle
from streams.settings import Settings
from streams.state.row_codec import FencingEpochs, StateError, encode_row, read_fencing_epoch

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())


class StateTable(faust.Table):  # type: ignore[misc] # Faust is not typed
    """A table of bytes. Its changelog is collected, and sent by `durable`.

    `locate(key)` is the partition of a key. `assignment` counts the restored assignments: an index of the rows must be
    built again when it changes. With `copies`, the rows of a partition are read from its local copy first, and the
    changelog is read from there on.
    """

    def __init__(
        self,
        *args: object,
        locate: Callable[[bytes], int] | None = None,
        copies: LocalCopies | None = None,
        **kwargs: object,
    ) -> None:
        self.locate = locate
        self.copies = copies
        self.assignment = 0
        self._owned: set[int] = set()
        self._seen, self._epochs = FencingEpochs(), dict[int, int]()
        self._changes = Outbox(last_alone=True)
        super().__init__(*args, **kwargs)

    def info(self) -> dict[str, object]:
        """Return the arguments with which Faust clones the table."""
        return {**super().info(), "locate": self.locate, "copies": self.copies}

    def partition_for_key(self, key: bytes) -> int:
        """Return the partition of `key`; Faust would take that of the event being processed."""
        assert self.locate is not None
        return self.locate(key)

    def write(self, key: bytes, row: Struct | None) -> None:
        """Set a row, under the fencing epoch of this assignment; None deletes it."""
        if row is not None:
            self[key] = encode_row(row, self._epochs.get(self.partition_for_key(key), 0))
        elif key in self:
            del self[key]

    def on_key_set(self, key: bytes, value: bytes) -> None:
        """Collect a write for the changelog."""
        self._changes.put(self._changelog_topic_name(), self.partition_for_key(key), key, value)

    def on_key_del(self, key: bytes) -> None:
        """Collect a deletion for the changelog."""
        self._changes.put(self._changelog_topic_name(), self.partition_for_key(key), key, None)

    async def durable(self) -> None:
        """Send the changelog of all writes so far and wait for it. Raises if the broker refuses a row."""
        delivered = await self._changes.deliver(self.app)
        if self.copies:
            for (_, partition), (rows, last) in delivered.items():
                written = [(key, value) for key, value, _ in rows]
                self.copies.add_written(partition, written, last, self._epochs.get(partition, 0))

    def persisted_offset(self, tp: TP) -> int | None:
        """Return the changelog's offset behind which Faust must read the rows; None: from the beginning."""
        return self.copies.offset(tp.partition) if self.copies else None

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], *args: object, **kwargs: object) -> None:
        """Forget the rows of partitions that this worker does not own any more."""
        telemetry.REBALANCES.inc()
        HEALTH.needs("state", "its partitions' state is being restored")
        await super().on_rebalance(assigned, revoked, *args, **kwargs)
        changelog = self._changelog_topic_name()
        owned = {tp.partition for tp in assigned if tp.topic == changelog}
        for lost in set(range(self.partitions)) - owned:  # if it comes back, all of it is read again
            self._seen.forget(lost)
            self.app.tables.recovery.revoke(TP(changelog, lost))  # Faust forgets to if one rebalance follows another
        for key in [key for key in self.data if self.partition_for_key(key) not in owned]:
            self.data.pop(key, None)
        self._switch_copies(owned)

    def _switch_copies(self, owned: set[int]) -> None:
        """Close the copies of partitions that were lost, and load those of new ones."""
        lost, new, self._owned = self._owned - owned, owned - self._owned, owned
        if not self.copies:
            return
        for partition in lost:
            self.copies.close(partition)
        for partition in new:
            epoch, rows = self.copies.load(partition)
            self._seen.admits(partition, epoch)
            self.data.update(rows)
            log.info("partition %d: %d rows from the copy on this disk", partition, len(rows))

    async def on_recovery_completed(self, *args: object, **kwargs: object) -> None:
        """Set the fencing epochs of this assignment: the rows are complete."""
        await super().on_recovery_completed(*args, **kwargs)
        generation = self.app.consumer_generation_id
        self._epochs = {p: self._seen.after_assignment(p, generation) for p in range(self.partitions)}
        self.assignment += 1
        HEALTH.needs("state")

    def apply_changelog_batch(self, batch: Iterable[FaustEvent]) -> None:
        """Restore rows from the changelog, except damaged ones and those of a former owner."""
        restored: defaultdict[int, list[KeyValue]] = defaultdict(list)
        last: dict[int, int] = {}
        for message in (event.message for event in batch):
            key = message.key or b""
            last[message.partition] = message.offset
            if not message.value:
                self.data.pop(key, None)
                restored[message.partition].append((key, None))
                continue
            try:
                epoch = read_fencing_epoch(message.value)
            except StateError as error:
                log.warning("%s/%d@%d skipped: %s", *message.tp, message.offset, error)
                continue
            if self._seen.admits(message.partition, epoch):
                self.data[key] = message.value
                restored[message.partition].append((key, message.value))
        if self.copies:
            for partition, offset in last.items():
                self.copies.add_read(partition, restored[partition], offset, self._seen.newest(partition))
        HEALTH.progress()


def state_table(
    app: PlatformApp,
    settings: Settings,
    name: str,
    locate: Callable[[bytes], int],
    topic_id: Callable[[Settings, str], str | None] = topic_admin.topic_id,
) -> StateTable:
    """Return the one table of a worker, partitioned as its source topics are; `topic_id` identifies its changelog."""
    copies = None
    if settings.local_copy:
        identify = functools.partial(topic_id, settings, f"{app.conf.id}-{name}-changelog")
        copies = LocalCopies(Path(app.conf.datadir) / "copies", identify)
    table = StateTable(
        app, name=name, key_type=bytes, value_type=bytes, partitions=settings.partitions, locate=locate, copies=copies
    )
    app.tables.add(table)
    return table
