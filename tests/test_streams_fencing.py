"""Rows of a worker that had lost its partition are recognised by their fencing epoch and ignored."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streams.faust_runtime.app import new_app
from streams.faust_runtime.state_table import state_table
from streams.settings import Settings
from streams.state.device import DeviceState
from streams.state.row_codec import (
    FencingEpochs,
    StateError,
    decode_row,
    encode_row,
    read_fencing_epoch,
    without_fencing_epoch,
)

ROW = DeviceState(seq=7)
OLD, NEW, LATE = (encode_row(DeviceState(seq=seq), epoch) for seq, epoch in ((1, 1), (2, 2), (3, 1)))


def test_a_row_comes_back_with_its_fencing_epoch() -> None:
    value = encode_row(ROW, 12)
    assert read_fencing_epoch(value) == 12
    assert decode_row(value, DeviceState) == ROW
    assert without_fencing_epoch(value) == encode_row(ROW) != value


@pytest.mark.parametrize("value", [b"", b"x", b"garbage!", bytes(8), bytes(range(200)), encode_row(ROW, 3)[:-1]])
def test_bytes_that_are_no_row_are_refused(value: bytes) -> None:
    with pytest.raises(StateError, match="wrong checksum"):
        read_fencing_epoch(value)
    with pytest.raises(StateError, match="wrong checksum"):
        decode_row(value, DeviceState)


@pytest.mark.parametrize("position", range(len(encode_row(ROW, 3))))
def test_damage_anywhere_is_noticed_in_the_fencing_epoch_too(position: int) -> None:
    value = bytearray(encode_row(ROW, 3))
    value[position] ^= 16
    with pytest.raises(StateError):
        read_fencing_epoch(bytes(value))
    with pytest.raises(StateError):
        decode_row(bytes(value), DeviceState)


def test_fencing_epochs_count_for_each_partition_and_never_go_back() -> None:
    epochs = FencingEpochs()
    assert [epochs.admits(0, t) for t in (2, 2, 5, 4, 5, 6)] == [True, True, True, False, True, True]
    assert epochs.admits(1, 1)
    assert epochs.after_assignment(0, 9) == 9
    assert epochs.after_assignment(0, 6) == 6  # assigned anew under the same generation
    assert epochs.after_assignment(0, 1) == 7  # the broker lost its groups and counts from 1 again


def test_a_partition_that_comes_back_is_read_from_its_beginning() -> None:
    epochs = FencingEpochs()
    assert epochs.admits(0, 3)
    assert not epochs.admits(0, 1)
    epochs.forget(0)
    assert [epochs.admits(0, t) for t in (1, 3, 2)] == [True, True, False]


def change(key: bytes, value: bytes | None, partition: int = 0, offset: int = 0) -> Any:
    message = SimpleNamespace(key=key, value=value, partition=partition, offset=offset, tp=TP("t", partition))
    return SimpleNamespace(message=message)


async def restored(settings: Settings) -> dict[bytes, bytes]:
    """Return a table after changes of two owners; Faust asks for the running loop."""
    table = state_table(new_app(settings, "device"), settings, "state", lambda _: 0)
    table.apply_changelog_batch(
        [
            change(b"a", OLD),
            change(b"b", OLD),
            change(b"gone", OLD),
            change(b"a", NEW),  # the new owner
            change(b"a", LATE),  # the former owner wakes up
            change(b"c", LATE, partition=1),  # of which it is still the owner
            change(b"stranger", b"\xff garbage"),
            change(b"gone", None),
        ]
    )
    return dict(table.data.items())


def test_a_restored_table_has_the_rows_of_its_owners_alone(settings: Settings) -> None:
    assert asyncio.run(restored(settings)) == {b"a": NEW, b"b": OLD, b"c": LATE}
