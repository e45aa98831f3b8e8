"""What a worker wrote that had lost its partition is told apart from what counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streams.faust_runtime.app import new_app
from streams.faust_runtime.state_table import state_table
from streams.settings import Settings
from streams.state.device import DeviceState
from streams.state.fence import FencingEpochs, fenced, unfenced
from streams.state.row_codec import StateError, pack


def test_a_row_comes_back_with_its_term() -> None:
    row = pack(DeviceState(seq=7))
    assert unfenced(fenced(12, row)) == (12, row)


@pytest.mark.parametrize("value", [b"", b"x", b"garbage!", bytes(range(200)), fenced(3, b"")[:-1]])
def test_what_is_no_row_is_noticed(value: bytes) -> None:
    with pytest.raises(StateError):
        unfenced(value)


@pytest.mark.parametrize("place", range(12))
def test_damage_anywhere_is_noticed_in_the_term_too(place: int) -> None:
    value = bytearray(fenced(3, b"rows"))
    value[place] ^= 16
    with pytest.raises(StateError):
        unfenced(bytes(value))


def test_terms_count_for_each_partition_and_never_go_back() -> None:
    terms = FencingEpochs()
    assert [terms.admits(0, t) for t in (2, 2, 5, 4, 5, 6)] == [True, True, True, False, True, True]
    assert terms.admits(1, 1)
    assert terms.next(0, 9) == 9
    assert terms.next(0, 6) == 6  # assigned anew under the same generation
    assert terms.next(0, 1) == 7  # the broker lost its groups and counts from 1 again


def test_a_partition_that_comes_back_is_read_from_its_beginning() -> None:
    terms = FencingEpochs()
    assert terms.admits(0, 3)
    assert not terms.admits(0, 1)
    terms.forget(0)
    assert [terms.admits(0, t) for t in (1, 3, 2)] == [True, True, False]


def change(key: bytes, value: bytes | None, partition: int = 0, offset: int = 0) -> Any:
    message = SimpleNamespace(key=key, value=value, partition=partition, offset=offset, tp=TP("t", partition))
    return SimpleNamespace(message=message)


def test_a_restored_table_has_the_rows_of_its_owners_alone(settings: Settings) -> None:
    table = state_table(new_app(settings, "device"), settings, "state", lambda _: 0)
    old, new, other = (pack(DeviceState(seq=seq)) for seq in (1, 2, 3))
    table.apply_changelog_batch(
        [
            change(b"a", fenced(1, old)),
            change(b"b", fenced(1, old)),
            change(b"gone", fenced(1, old)),
            change(b"a", fenced(2, new)),  # the new owner
            change(b"a", fenced(1, other)),  # the sleeper wakes up
            change(b"c", fenced(1, other), partition=1),  # whose it still is
            change(b"stranger", b"\xff garbage"),
            change(b"gone", None),
        ]
    )
    assert dict(table.data.items()) == {b"a": new, b"b": old, b"c": other}
