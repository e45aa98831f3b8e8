"""A worker's table: a changelog whose writes are awaited, rows that know their partition, and a copy on this disk.

Faust's own table sends its changelog and never waits for it.
"""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faust
from faust.types import TP
from msgspec import Struct

from streams.faust_runtime.app import PlatformApp
from streams.faust_runtime.outbox import KeyValue, Outbox
from streams.faust_runtime.rocksdb_snapshot import LocalCopies
from streams.kafka import topic_admin
from streams.process.health import HEALTH
from streams.process.log_throttle import LogThrottle
from streams.settings import Settings
from streams.state.row_codec import FencingEpochs, StateError, encode_row, read_fencing_epoch

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())


class StateTable(faust.Table):  # type: ignore[misc]
    """A table of bytes whose changelog is collected and sent by `durable`, and whose keys know their partition.

    `locate(key)` is the partition of a key. Rows of partitions that went to another worker are forgotten at once, so
    that none is stale when the partition comes back. `assignment` counts the restored assignments: an index of the rows
    must be built again when it changes. With `copies`, the rows of a partition are read from its copy on this disk
    first, and the changelog is read from there on.
    """

    def __init__(
        self,
        *args: Any,
        locate: Callable[[bytes], int] | None = None,
        copies: LocalCopies | None = None,
        **kwargs: Any,
    ) -> None:
        self.locate = locate
        self.copies = copies
        self.assignment = 0
        self._mine: set[int] = set()
        self._seen, self._epochs = FencingEpochs(), dict[int, int]()
        self._changes = Outbox(last_alone=True)
        super().__init__(*args, **kwargs)

    def info(self) -> dict[str, Any]:
        """What Faust clones the table with."""
        return {**super().info(), "locate": self.locate, "copies": self.copies}

    def partition_for_key(self, key: bytes) -> int:
        """The partition of `key`, whatever event is being worked on."""
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
        """Wait until the changelog of all writes so far is acknowledged. Raises where the broker refuses."""
        delivered = await self._changes.deliver(self.app)
        if self.copies:
            for (_, partition), (rows, last) in delivered.items():
                self.copies.written(partition, rows, last, self._epochs.get(partition, 0))

    def persisted_offset(self, tp: TP) -> int | None:
        """The offset of the changelog behind which the rows in memory have to be read; None: all of it."""
        return self.copies.offset(tp.partition) if self.copies else None

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], *args: Any, **kwargs: Any) -> None:
        """Forget the rows of partitions that are no longer ours."""
        HEALTH.needs("state", "its partitions' state is being restored")
        await super().on_rebalance(assigned, revoked, *args, **kwargs)
        changelog = self._changelog_topic_name()
        mine = {tp.partition for tp in assigned if tp.topic == changelog}
        for gone in set(range(self.partitions)) - mine:  # where it comes back, all of it is read again
            self._seen.forget(gone)
            self.app.tables.recovery.revoke(TP(changelog, gone))  # a rebalance upon a rebalance leaves it out
        for key in [key for key in self.data if self.partition_for_key(key) not in mine]:
            self.data.pop(key, None)
        self._take_copies(mine)

    def _take_copies(self, mine: set[int]) -> None:
        """Let go of the copies of partitions that are no longer ours, and take in those of the ones that are new."""
        lost, new, self._mine = self._mine - mine, mine - self._mine, mine
        if not self.copies:
            return
        for partition in lost:
            self.copies.close(partition)
        for partition in new:
            epoch, rows = self.copies.load(partition)
            self._seen.admits(partition, epoch)
            self.data.update(rows)
            log.info("partition %d: %d rows from the copy on this disk", partition, len(rows))

    async def on_recovery_completed(self, *args: Any, **kwargs: Any) -> None:
        """Note that the rows are whole again."""
        await super().on_recovery_completed(*args, **kwargs)
        generation = self.app.consumer_generation_id
        self._epochs = {p: self._seen.after_assignment(p, generation) for p in range(self.partitions)}
        self.assignment += 1
        HEALTH.needs("state")

    def apply_changelog_batch(self, batch: Any) -> None:
        """Take in rows of the changelog, but for those of a worker that had lost the partition, and garbage."""
        taken: defaultdict[int, list[KeyValue]] = defaultdict(list)
        last: dict[int, int] = {}
        for message in (event.message for event in batch):
            last[message.partition] = message.offset
            if not message.value:
                self.data.pop(message.key, None)
                taken[message.partition].append((message.key, None))
                continue
            try:
                epoch = read_fencing_epoch(message.value)
            except StateError as error:
                log.warning("%s/%d@%d passed over: %s", *message.tp, message.offset, error)
                continue
            if self._seen.admits(message.partition, epoch):
                self.data[message.key] = message.value
                taken[message.partition].append((message.key, message.value))
        if self.copies:
            for partition, offset in last.items():
                self.copies.read(partition, taken[partition], offset, self._seen.newest(partition))
        HEALTH.progress()


def state_table(app: PlatformApp, settings: Settings, name: str, locate: Callable[[bytes], int]) -> StateTable:
    """The one table of a worker, partitioned as its source topics are."""
    copies = None
    if settings.local_copy:
        life = functools.partial(topic_admin.topic_id, settings, f"{app.conf.id}-{name}-changelog")
        copies = LocalCopies(Path(app.conf.datadir) / "copies", life)
    table = StateTable(
        app, name=name, key_type=bytes, value_type=bytes, partitions=settings.partitions, locate=locate, copies=copies
    )
    app.tables.add(table)
    return table
