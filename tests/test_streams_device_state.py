"""Rows of the device's table: encoded and decoded, damage noticed, every key in its user's partition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.partitioner import partition_key, partition_of, partition_of_row
from streams.records import Versions
from streams.state.cloud import CloudState
from streams.state.device import DevicePartitionState, DeviceState, PendingRequest, kind_of, request_key, user_key
from streams.state.row_codec import StateError, decode_row, encode_row

numbers = st.integers(0, 2**53)
keys = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60)
users = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
states = st.builds(
    DeviceState,
    seq=numbers,
    time=numbers,
    encoder=st.integers(-1, 10**6),
    gru_state=st.binary(max_size=128),
    open_count=numbers,
    r2=st.binary(max_size=128),
    window=numbers,
    clicks=keys,
    exposures=keys,
    uploads=keys,
)


@given(states)
def test_a_state_comes_back_as_it_was(state: DeviceState) -> None:
    assert decode_row(encode_row(state), DeviceState) == state


@given(states, st.data())
def test_a_damaged_row_is_noticed(state: DeviceState, data: st.DataObject) -> None:
    row = bytearray(encode_row(state))
    position = data.draw(st.integers(0, len(row) - 1))
    row[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StateError):
        decode_row(bytes(row), DeviceState)


def test_a_row_of_another_kind_is_no_state() -> None:
    with pytest.raises(StateError):
        decode_row(encode_row(DevicePartitionState(1, 2, 3, over=True, waiting=(b"marker",))), PendingRequest)


def test_a_full_state_is_about_a_kilobyte() -> None:
    full = DeviceState(
        seq=10**6,
        gru_state=bytes(range(128)),
        r2=bytes(range(128)),
        clicks=[2**62] * 10,
        exposures=[2**62] * 20,
        uploads=[2**62] * 50,
    )
    assert len(encode_row(full)) < 1100


@given(users, numbers, st.integers(1, 64))
def test_every_row_of_a_user_is_in_the_user_s_partition(user: str, seq: int, partitions: int) -> None:
    mine = partition_of(user.encode(), partitions)
    assert partition_of_row(user_key(user), partitions) == partition_of_row(request_key(user, seq), partitions) == mine
    assert kind_of(user_key(user)) is DeviceState
    assert kind_of(request_key(user, seq)) is PendingRequest


@given(st.integers(0, 255))
def test_a_partition_s_row_is_in_it(partition: int) -> None:
    assert partition_of_row(partition_key(partition), 256) == partition
    assert kind_of(partition_key(partition)) is DevicePartitionState


def test_pending_requests_of_one_user_have_rows_of_their_own() -> None:
    pending = PendingRequest("u", 7, 1, 2, 3, 4, b"", "logged", True, b"", b"", 0, 0, Versions(1, 2, 3, 4), 5, 6)
    assert decode_row(encode_row(pending), PendingRequest) == pending
    assert request_key("u", 7) != request_key("u", 8)


clicks = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50).map(tuple)


@given(clicks, clicks, st.integers(-1, 10**6))
def test_a_cloud_state_comes_back_as_it_was(before: tuple[int, ...], last: tuple[int, ...], epoch: int) -> None:
    state = CloudState(earlier_clicks=before, last_clicks=last, epoch=epoch)
    assert decode_row(encode_row(state), CloudState) == state
    damaged = bytearray(encode_row(state))
    damaged[-1] ^= 1
    with pytest.raises(StateError):
        decode_row(bytes(damaged), CloudState)
