"""The cloud's state: a delayed history that no repeat changes, and the newest r2s."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streams.state.cloud import KEPT_R2, R2, CloudState

LONG = 5
uploads = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=7), max_size=6)


def upload(state: CloudState, epoch: int, clicks: list[int]) -> CloudState:
    return state.with_upload(epoch, tuple(clicks), LONG)


@given(uploads)
def test_a_request_sees_the_clicks_of_earlier_epochs_and_no_others(epochs: list[list[int]]) -> None:
    state, earlier = CloudState(), list[int]()
    for epoch, clicks in enumerate(epochs):
        assert state.history(epoch, LONG).tolist() == earlier[-LONG:]
        state = upload(state, epoch, clicks)
        assert state.history(epoch, LONG).tolist() == earlier[-LONG:]  # a request that is repeated after the upload
        earlier += clicks
        assert len(state.earlier_clicks) + len(state.last_clicks) <= 2 * LONG


@given(uploads)
def test_an_upload_that_comes_again_changes_nothing(epochs: list[list[int]]) -> None:
    state = CloudState()
    for epoch, clicks in enumerate(epochs):
        state = upload(state, epoch, clicks)
        for again in range(epoch + 1):
            assert upload(state, again, clicks) == state


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), max_size=12))
def test_the_last_r2s_received_are_kept_once_each_and_the_newest(received: list[tuple[int, int]]) -> None:
    state = CloudState()
    for window, encoder in received:
        state = state.with_r2(R2(window, encoder, bytes([window, encoder])))
    kept = [(r2.window, r2.encoder) for r2 in state.r2s]
    last = list(dict.fromkeys(reversed(received)))[:KEPT_R2][::-1]
    assert kept == (last if not received or max(received) in last else [max(received), *last])
    for window, encoder in kept:
        assert state.r2(window, encoder) == bytes([window, encoder])
    assert state.r2(9, 9) is None


def test_an_r2_sent_again_with_all_that_follows_it_leaves_the_state_as_it_was() -> None:
    sent = [R2(window, 0, b"") for window in range(1, 6)]
    state = CloudState()
    for r2 in sent:
        state = state.with_r2(r2)
    for first in range(len(sent)):
        again = state
        for r2 in sent[first:]:
            again = again.with_r2(r2)
            assert again.r2(r2.window, 0) is not None
        assert again == state


def test_a_request_whose_r2_was_followed_by_a_later_one_was_answered_before() -> None:
    state = CloudState().with_r2(R2(2, 0, b"")).with_r2(R2(3, 0, b""))
    assert state.has_later_r2(1, 0)
    assert state.has_later_r2(2, 0)
    assert not state.has_later_r2(3, 0)
    assert not state.has_later_r2(3, 1)  # under a new encoder, on its way
    assert [a.window < b.window for a, b in pairwise(state.r2s)] == [True]
