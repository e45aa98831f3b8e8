"""Local copies of the changelog: never ahead of it, given up after foreign writes or damage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from faust.types import TP

from streams.faust_runtime.app import new_app
from streams.faust_runtime.outbox import Delivered, KeyValue
from streams.faust_runtime.rocksdb_snapshot import LocalCopies
from streams.faust_runtime.state_table import StateTable, state_table
from streams.settings import Settings
from streams.state.device import DeviceState
from streams.state.row_codec import encode_row
from tests.test_streams_fencing import change

CHANGELOG = "topic-1"


def row(seq: int, epoch: int = 1) -> bytes:
    return encode_row(DeviceState(seq=seq), epoch)


def copies(folder: Path, topic_id: str | None = CHANGELOG) -> LocalCopies:
    return LocalCopies(folder, lambda: topic_id)


def test_a_copy_comes_back_with_its_rows_its_offset_and_its_fencing_epoch(tmp_path: Path) -> None:
    one = copies(tmp_path)
    assert one.load(0) == (0, {})
    assert one.offset(0) is None
    one.add_written(0, [(b"a", row(1)), (b"b", row(1)), (b"\0\0\0\0\0", row(7))], 2, 1)
    one.add_written(0, [(b"a", row(2, 4)), (b"b", None)], 4, 4)
    one.close(0)
    again = copies(tmp_path)
    assert again.load(0) == (4, {b"a": row(2, 4), b"\0\0\0\0\0": row(7)})
    assert again.offset(0) == 4
    assert again.load(1) == (0, {})


def test_a_copy_is_deleted_if_another_worker_wrote_in_between(tmp_path: Path) -> None:
    one = copies(tmp_path)
    one.load(0)
    one.add_written(0, [(b"a", row(1))], 0, 1)
    one.add_written(0, [(b"a", row(3))], 2, 1)  # offset 1 is another worker's
    assert one.offset(0) is None
    one.add_written(0, [(b"a", row(4))], 3, 1)
    one.add_read(0, [(b"a", row(4))], 3, 1)
    assert one.offset(0) is None
    one.close(0)
    assert copies(tmp_path).load(0) == (0, {})


def test_rows_that_are_read_may_lack_offsets_that_compaction_removed(tmp_path: Path) -> None:
    one = copies(tmp_path)
    one.load(0)
    one.add_read(0, [(b"a", row(1))], 9, 1)
    one.add_written(0, [(b"a", row(2))], 10, 1)
    assert one.offset(0) == 10


def test_there_is_no_copy_if_another_worker_has_it_and_none_of_another_topic(tmp_path: Path) -> None:
    one = copies(tmp_path)
    one.load(0)
    one.add_written(0, [(b"a", row(1))], 0, 1)
    other = copies(tmp_path)
    assert other.load(0) == (0, {})  # it is locked
    other.add_written(0, [(b"b", row(1))], 0, 1)
    assert other.offset(0) is None
    assert copies(tmp_path, "topic-2").load(0) == (0, {})
    assert copies(tmp_path, None).load(0) == (0, {})
    one.close(0)
    assert copies(tmp_path).load(0) == (1, {b"a": row(1)})


def test_a_damaged_copy_is_deleted(tmp_path: Path) -> None:
    one = copies(tmp_path)
    one.load(0)
    one.add_written(0, [(b"a", row(1)[:-1] + b"?"), (b"b", row(1))], 1, 1)
    one.close(0)
    for _ in range(2):
        again = copies(tmp_path)
        assert again.load(0) == (0, {})
        again.close(0)


class Broker:
    """Takes what a table writes; with `refuses` the worker ends before the acknowledgement."""

    def __init__(self) -> None:
        self.log: list[KeyValue] = []
        self.refuses = False

    async def deliver(self, rows: list[KeyValue]) -> dict[tuple[str, int], Delivered]:
        if self.refuses:
            raise ConnectionError("killed before the acknowledgement")
        self.log += rows
        return {("changelog", 0): Delivered([(*row, []) for row in rows], len(self.log) - 1)}


def assigned(table: StateTable, *partitions: int) -> StateTable:
    """Assign partitions as Faust does before it reads the changelog."""
    changelog = {TP(table._changelog_topic_name(), p) for p in partitions}
    asyncio.run(table.on_rebalance(changelog, set(), changelog))
    return table


def with_a_row(table: StateTable) -> StateTable:
    """Return the table with partition 0 and one durable row."""
    assigned(table, 0).write(b"a", DeviceState(seq=1))
    asyncio.run(table.durable())
    return table


@pytest.fixture
def start(settings: Settings) -> Callable[[Broker], StateTable]:
    """Return a function that starts a worker's table, always on the same disk; its writes go to a broker."""

    def start_table(broker: Broker) -> StateTable:
        own = settings.model_copy(update={"local_copy": True})
        table = state_table(new_app(own, "device"), own, "state", lambda _: 0, lambda *_: CHANGELOG)
        changes: list[KeyValue] = []
        table._changes.put = lambda _topic, _partition, key, value: changes.append((key, value))  # type: ignore[method-assign]

        async def deliver(_: object) -> dict[tuple[str, int], Delivered]:
            rows, changes[:] = list(changes), []
            return await broker.deliver(rows)

        table._changes.deliver = deliver  # type: ignore[method-assign,assignment]
        return table

    return start_table


def test_a_worker_that_was_killed_starts_from_its_copy_which_is_never_ahead_of_the_changelog(
    start: Callable[[Broker], StateTable],
) -> None:
    broker = Broker()
    table = with_a_row(start(broker))
    broker.refuses = True
    table.write(b"a", DeviceState(seq=2))
    table.write(b"b", DeviceState(seq=1))
    with pytest.raises(ConnectionError):
        asyncio.run(table.durable())
    assert table.copies is not None
    table.copies.close(0)  # as the operating system does for a killed process
    again = assigned(start(broker), 0)
    assert dict(again.data.items()) == {b"a": row(1, 0)}
    assert again.persisted_offset(TP("changelog", 0)) == 0


def test_the_changelog_is_read_on_behind_the_copy_and_the_rows_of_a_former_owner_are_left_out(
    start: Callable[[Broker], StateTable],
) -> None:
    broker = Broker()
    table = assigned(start(broker), 0)
    table.apply_changelog_batch([change(b"a", row(1, 2), offset=5), change(b"b", row(1, 3), offset=6)])
    table.apply_changelog_batch([change(b"a", None, offset=7), change(b"b", row(9, 2), offset=8)])
    assert table.copies is not None
    table.copies.close(0)
    again = assigned(start(broker), 0)
    assert again.persisted_offset(TP("changelog", 0)) == 8
    again.apply_changelog_batch([change(b"c", row(1, 2), offset=9), change(b"d", row(1, 3), offset=10)])
    assert dict(again.data.items()) == {b"b": row(1, 3), b"d": row(1, 3)}


def test_a_lost_partition_has_no_rows_until_it_comes_back(start: Callable[[Broker], StateTable]) -> None:
    broker = Broker()
    table = with_a_row(start(broker))
    assigned(table)
    assert not dict(table.data.items())
    assigned(table, 0)
    assert dict(table.data.items()) == {b"a": row(1, 0)}
