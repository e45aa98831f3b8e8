"""One user's batches: predict before learning, impression groups, windows, encoders, repeats and gaps."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.servers.releases import release
from models.data.catalogue import Catalogue
from models.data.item_statistics import ItemStatistics
from streams.device.deferred_gru import compute, computed
from streams.device.step import SequenceGap, Step, step
from streams.device.user import Context, DeferredNegativeMemory, User
from streams.model_config import view_spec
from streams.records import DeviceBatch, RankRequest
from streams.settings import Settings
from streams.state.device import DeviceState, keys_array
from streams.state.row_codec import encode_row
from tests.support.simulation import SMALL

RELEASES = {0: release(SMALL, 0, 12), 1: release(SMALL, 1, 20)}
EXPOSURE, CLICK, CANDIDATE, PAST_CLICK = range(4)


def context(settings: Settings = SMALL, version: int = 0, **changes: Any) -> Context:
    found = RELEASES[version]
    usual = Context(settings, view_spec(settings), 0, found.manifest.versions, found.catalogue, ItemStatistics.empty())
    return replace(usual, **changes)


def batch(*events: tuple[int, int] | tuple[int, int, int], seq: int = 0, time: int = 0, gap: int = 1) -> DeviceBatch:
    """Events as (kind, item) or (kind, item, impression), `gap` ms apart."""
    return DeviceBatch(
        "u",
        seq,
        [str(event[1]) for event in events],
        bytes(event[0] for event in events),
        [time + gap * i for i in range(len(events))],
        [event[2] if len(event) > 2 else 0 for event in events],
    )


def resolved(*steps: Step) -> DeviceState:
    last = steps[-1].user
    sent = [record.r2 for made in steps for record in made.uplink if isinstance(record, DeferredNegativeMemory)]
    compute([last.gru_state, last.r2, *sent], lambda version: (RELEASES[version].scorer, RELEASES[version].catalogue))
    return last.resolve()


def encoded(items: list[int], start: bytes = b"", version: int = 0) -> bytes:
    """Return the state of GRU_n after `items`, one step per item."""
    scorer, catalogue = RELEASES[version].scorer, RELEASES[version].catalogue
    state = np.zeros((1, SMALL.dim), "<f4") if not start else np.frombuffer(start, "<f4")[None].copy()
    for item in items:
        state = scorer.step(state, catalogue.rows([item]))
    return state.tobytes()


NEW = User.of(DeviceState())


def test_the_clicks_of_an_impression_are_seen_with_the_state_before_its_first_event() -> None:
    first = step(NEW, batch((EXPOSURE, 1), (CLICK, 2)), context())
    group = batch((EXPOSURE, 3, 9), (CLICK, 4, 9), (EXPOSURE, 5, 9), (CLICK, 6, 9), seq=2, time=10)
    made = step(first.user, group, context())
    assert [keys_array(p.clicks).tolist() for p in made.requests] == [[2], [2]]
    assert [keys_array(p.exposures).tolist() for p in made.requests] == [[1], [1]]
    assert {p.time for p in made.requests} == {10}
    assert made.user.state.clicks == [2, 4, 6]
    assert made.user.state.exposures == [1, 3, 5]


def test_a_click_is_ranked_against_its_slate_less_its_other_clicks() -> None:
    group = batch((EXPOSURE, 3, 9), (CLICK, 4, 9), (CANDIDATE, 5, 9), (CLICK, 6, 9), (EXPOSURE, 3, 9))
    made = step(NEW, group, context())
    slates = [sorted(keys_array(p.candidates).tolist()) for p in made.requests]
    assert slates == [[3, 4, 5], [3, 5, 6]]
    assert [keys_array(p.candidates)[p.target_index] for p in made.requests] == [4, 6]
    assert {p.slate for p in made.requests} == {"logged"}
    assert made.user.state.exposures == [3, 3]  # a candidate that was not shown enters nothing


def test_a_list_made_for_ranking_is_taken_in_its_own_order() -> None:
    group = batch((CANDIDATE, 9, 7), (CANDIDATE, 3, 7), (CLICK, 4, 7), (CANDIDATE, 8, 7), (CANDIDATE, 5, 7))
    (pending,) = step(NEW, group, context()).requests
    assert keys_array(pending.candidates).tolist() == [9, 3, 4, 8, 5]
    assert (pending.target_index, pending.slate) == (2, "logged")
    shown = batch((CANDIDATE, 9, 7), (CANDIDATE, 3, 7), (CLICK, 4, 7), (CANDIDATE, 8, 7), (EXPOSURE, 5, 7))
    orders = {
        keys_array(step(NEW, shown, context(SMALL.model_copy(update={"seed": s}))).requests[0].candidates).tobytes()
        for s in range(5)
    }
    assert len(orders) > 1, "a slate that was shown is shuffled: its order may tell the click"


@pytest.mark.parametrize("events", [[(CLICK, 4)], [(CLICK, 4, 9), (CLICK, 5, 9)]])
def test_a_click_without_a_slate_is_ranked_against_the_catalogue(events: list[Any]) -> None:
    made = step(NEW, batch(*events), context())
    for pending in made.requests:
        assert pending.slate == "sampled"
        assert len(keys_array(pending.candidates)) == SMALL.negatives + 1
        assert not pending.cold


def test_a_target_outside_the_catalogue_is_cold() -> None:
    (unknown,) = step(NEW, batch((CLICK, 99)), context()).requests
    assert unknown.cold
    (slate,) = step(NEW, batch((CLICK, 99, 9), (EXPOSURE, 4, 9)), context()).requests
    assert slate.cold
    assert slate.slate == "logged"


def test_before_the_first_trained_release_a_click_is_ranked_among_the_items_seen_before_its_epoch() -> None:
    seen = ItemStatistics.empty().next_epoch(np.array([3, 4, 8]), np.array([0, 2, 1]))
    (pending,) = step(NEW, batch((CLICK, 4)), context(catalogue=Catalogue([]), item_statistics=seen)).requests
    assert sorted(keys_array(pending.candidates)) == [3, 4, 8]
    assert pending.cold


def test_a_click_without_other_candidates_is_not_ranked() -> None:
    alone = step(NEW, batch((CLICK, 4), (EXPOSURE, 5)), context(catalogue=Catalogue([])))
    assert alone.requests == alone.uplink == []
    assert alone.user.state.clicks == [4]


def test_only_the_share_of_clicks_that_is_drawn_is_ranked() -> None:
    clicks = batch(*[(CLICK, i % 12 + 1) for i in range(400)])
    some = step(NEW, clicks, context(SMALL.model_copy(update={"evaluate": 0.25})))
    assert 60 < len(some.requests) < 140
    assert step(NEW, clicks, context(SMALL.model_copy(update={"evaluate": 0.0}))).requests == []


def test_past_clicks_enter_histories_and_are_never_ranked() -> None:
    made = step(NEW, batch((PAST_CLICK, 1), (PAST_CLICK, 2)), context())
    assert made.requests == []
    assert made.user.state.clicks == made.user.state.uploads == [1, 2]


def test_clicks_of_an_epoch_that_has_ended_are_uploaded_already() -> None:
    first = step(NEW, batch((CLICK, 1), (CLICK, 2)), context()).user
    same = step(first, batch((CLICK, 3), seq=2, time=9), context()).user
    between = step(same, batch((CLICK, 4), seq=3, time=9), context(ended=0)).user  # before the next epoch begins
    later = step(between, batch((CLICK, 5), seq=4, time=9), context(epoch=1, ended=0)).user
    states = [user.state for user in (first, same, between, later)]
    assert [(state.uploads, state.uploads_epoch) for state in states] == [
        ([1, 2], 0),
        ([1, 2, 3], 0),
        ([4], 1),
        ([4, 5], 1),
    ]
    assert [state.not_uploaded(0) for state in states] == [[], [], [4], [4, 5]]


def test_a_window_that_is_full_goes_up_and_the_state_begins_at_zero() -> None:
    made = step(NEW, batch(*[(EXPOSURE, i) for i in range(1, 8)]), context())
    state = resolved(made)
    memories = [record for record in made.uplink if isinstance(record, DeferredNegativeMemory)]
    assert [(m.window, m.size, m.time) for m in memories] == [(1, 3, 2), (2, 3, 5)]
    assert [computed(m.r2) for m in memories] == [encoded([1, 2, 3]), encoded([4, 5, 6])]
    assert (state.gru_state, state.open_count, state.window) == (encoded([7]), 1, 2)
    assert state.r2 == encoded([4, 5, 6])


def test_a_carried_state_goes_on_over_windows() -> None:
    made = step(NEW, batch(*[(EXPOSURE, i) for i in range(1, 8)]), context(SMALL.model_copy(update={"carry": True})))
    state = resolved(made)
    assert [computed(r.r2) for r in made.uplink if isinstance(r, DeferredNegativeMemory)] == [
        encoded([1, 2, 3]),
        encoded(list(range(1, 7))),
    ]
    assert state.gru_state == encoded(list(range(1, 8)))


def test_an_old_window_closes_before_the_next_impression_group_is_ranked() -> None:
    aged = context(SMALL.model_copy(update={"window_age_s": 1.0}))
    first = step(NEW, batch((EXPOSURE, 1), (EXPOSURE, 2)), aged)
    second = step(first.user, batch((CLICK, 3), (EXPOSURE, 4), seq=2, time=1001), aged)
    memory, request = second.uplink
    assert isinstance(memory, DeferredNegativeMemory)
    assert isinstance(request, RankRequest)
    assert (memory.window, memory.size, memory.time, request.window) == (1, 2, 1001, 1)
    assert resolved(first, second).r2 == encoded([1, 2])
    young = step(first.user, batch((CLICK, 3), seq=2, time=1000), aged)
    assert [type(record) for record in young.uplink] == [RankRequest]


def test_a_clock_that_goes_back_makes_no_r2_from_the_future() -> None:
    first = step(NEW, batch(*[(EXPOSURE, i) for i in range(1, SMALL.threshold + 1)], time=1000), context())
    made = step(first.user, batch((CLICK, 9), seq=SMALL.threshold, time=5), context())
    assert [(p.window, p.r2_age) for p in made.requests] == [(1, 0)]


def test_a_new_encoder_encodes_both_windows_again_and_sends_the_closed_one_first() -> None:
    first = step(NEW, batch(*[(EXPOSURE, i) for i in range(1, 6)]), context())
    user = User.of(resolved(first))
    made = step(user, batch((CLICK, 7), seq=5, time=50), context(version=1))
    memory, request = made.uplink
    state = resolved(made)
    assert isinstance(memory, DeferredNegativeMemory)
    assert isinstance(request, RankRequest)
    assert (memory.window, memory.encoder, memory.time) == (1, 1, 2)
    assert computed(memory.r2) == state.r2 == encoded([1, 2, 3], version=1)
    assert state.gru_state == encoded([4, 5], version=1)
    assert request.versions.encoder == 1


def test_a_user_whose_cloud_may_have_moved_on_sends_the_last_r2_before_the_first_request() -> None:
    user = User.of(resolved(step(NEW, batch(*[(EXPOSURE, i) for i in range(1, 5)]), context())))
    clicks = batch((CLICK, 7), (CLICK, 8), seq=4)
    assert [type(r) for r in step(user, clicks, context()).uplink] == [RankRequest, RankRequest]
    again = step(user, clicks, context(resend_r2=True)).uplink
    assert [type(r) for r in again] == [DeferredNegativeMemory, RankRequest, RankRequest]


@given(st.integers(0, 2**32))
def test_any_cutting_into_batches_gives_the_same(seed: int) -> None:
    chance = random.Random(seed)
    n, impression, events = 25, 0, list[tuple[int, int, int]]()
    while len(events) < n:
        impression += 1
        size = chance.randrange(1, 4)
        kinds = [chance.choice((0, 0, 0, 1, 2, 3)) for _ in range(size)]
        events += [(kind, chance.randrange(1, 14), impression if size > 1 else 0) for kind in kinds]
    whole = step(NEW, batch(*events), context())
    user, steps, start = NEW, [], 0
    while start < len(events):
        end = start + chance.randrange(1, 6)
        while end < len(events) and events[end][2] and events[end][2] == events[end - 1][2]:
            end += 1
        steps.append(step(user, batch(*events[start:end], seq=start, time=start), context()))
        user = steps[-1].user
        if chance.random() < 0.3:  # written and read again between two batches
            user = User.of(resolved(*steps))
        start = end
    assert encode_row(resolved(whole)) == encode_row(resolved(*steps))
    assert [p for made in steps for p in made.requests] == whole.requests
    cut = [record for made in steps for record in made.uplink]
    assert [_resolved(r) for r in cut] == [_resolved(r) for r in whole.uplink]


def _resolved(record: DeferredNegativeMemory | RankRequest) -> Any:
    return record if isinstance(record, RankRequest) else replace(record, r2=computed(record.r2))


def test_a_step_changes_nothing_of_what_it_was_given() -> None:
    before = step(NEW, batch((EXPOSURE, 1), (CLICK, 2)), context()).user
    kept = encode_row(before.state), list(before.gru_state.keys) if not isinstance(before.gru_state, bytes) else []
    for _ in range(2):
        step(before, batch(*[(EXPOSURE, i) for i in range(3, 9)], seq=2), context())
        assert kept == (encode_row(before.state), before.gru_state.keys)  # type: ignore[union-attr]


def test_events_that_were_applied_before_are_skipped() -> None:
    first = step(NEW, batch((EXPOSURE, 1), (CLICK, 2)), context())
    again = step(first.user, batch((EXPOSURE, 1), (CLICK, 2)), context())
    assert (again.applied, again.repeated, again.uplink) == (0, 2, [])
    assert again.user is first.user
    overlap = step(first.user, batch((EXPOSURE, 1), (CLICK, 2), (CLICK, 3)), context())
    assert (overlap.applied, overlap.repeated) == (1, 2)
    assert overlap.user.state.clicks == [2, 3]


def test_a_gap_is_never_stepped_over() -> None:
    with pytest.raises(SequenceGap, match="seq 1 behind a missing or refused record: 0 is expected"):
        step(NEW, batch((CLICK, 1), seq=1), context())
