"""The view of a click: counted over the whole log, and replayed event by event as on a device."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.event_kinds import CLICK, EXPOSURE, PAST_CLICK
from models.data.interaction_log import InteractionLog, click_states, slates
from models.data.views import View, ViewSpec, view

SPEC = ViewSpec(history_long=6, history_short=3, threshold=4)


@dataclass
class Device:
    """One user's state, replayed event by event, with nothing dropped."""

    spec: ViewSpec
    clicks: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)  # of the clicks
    exposures: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # of the closed windows
    open: int = 0
    opened: int = 0

    def close(self) -> None:
        self.sizes.append(self.open)
        self.open = 0

    def look(self, epoch: int, rings: bool) -> View:
        uploaded = [key for key, of in zip(self.clicks, self.epochs, strict=True) if of < epoch]
        size = self.sizes[-1] if self.sizes else 0
        kept = [uploaded, self.clicks, self.exposures]
        if rings:  # only what a device or the cloud keeps
            spec = self.spec
            lengths = (spec.history_long, spec.history_short, 2 * spec.threshold)
            kept = [keys[max(0, len(keys) - n) :] for keys, n in zip(kept, lengths, strict=True)]
        arrays = [np.array(keys, np.int64) for keys in kept]
        whole = None if self.spec.window_age_ms is None else size
        return view(*arrays, self.open, len(self.sizes), self.spec, closed_count=whole)

    def apply(self, kind: int, key: int, at: int, epoch: int) -> None:
        if kind in {CLICK, PAST_CLICK}:
            self.clicks.append(key)
            self.epochs.append(epoch)
        elif kind == EXPOSURE:
            self.opened = at if not self.open else self.opened
            self.exposures.append(key)
            self.open += 1
            if self.open == self.spec.threshold:
                self.close()


def replay(log: InteractionLog, user: int, spec: ViewSpec, *, rings: bool) -> dict[int, View]:
    device, views = Device(spec), {}
    begin, end = int(log.offsets[user]), int(log.offsets[user + 1])
    i = begin
    while i < end:
        j = i + 1
        while j < end and log.impressions[i] and log.impressions[j] == log.impressions[i]:
            j += 1
        if device.open and spec.window_age_ms is not None and log.times[i] - device.opened > spec.window_age_ms:
            device.close()
        for k in range(i, j):
            if log.kinds[k] == CLICK:
                views[k] = device.look(int(log.epochs[k]), rings)
        for k in range(i, j):
            device.apply(int(log.kinds[k]), int(log.keys[k]), int(log.times[k]), int(log.epochs[k]))
        i = j
    return views


def random_log(seed: int, users: int = 4, events: int = 80) -> InteractionLog:
    rng = np.random.default_rng(seed)
    columns: list[list[np.ndarray]] = [[] for _ in range(5)]
    offsets = [0]
    for _ in range(users):
        n = int(rng.integers(0, events))
        times = np.sort(rng.integers(0, 1000, n))
        # an impression is a run of adjacent events, of one epoch
        units = np.cumsum(rng.random(n) < 0.6)
        impressions = np.where(rng.random(len(units) + 1)[units] < 0.5, units + 1, 0) if n else units
        epochs = (np.cumsum(rng.random(len(units) + 1) < 0.15))[units] if n else units
        for column, values in zip(
            columns, (rng.integers(0, 1000, n), rng.choice(4, n), times, impressions, epochs), strict=True
        ):
            column.append(values.astype(np.int64))
        offsets.append(offsets[-1] + n)
    return InteractionLog(np.array(offsets), *(np.concatenate(column) for column in columns))


def same(one: View, other: View) -> bool:
    return one.window == other.window and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("age", [None, 60], ids=["by count", "by count and age"])
@pytest.mark.parametrize("rings", [False, True], ids=["whole prefixes", "rings"])
def test_counting_over_the_log_gives_what_a_device_replays(age: int | None, rings: bool) -> None:
    spec = ViewSpec(history_long=6, history_short=3, threshold=4, window_age_ms=age)
    seen = windows = 0
    for seed in range(20):
        log = random_log(seed)
        states = click_states(log, spec)
        replayed = {at: v for user in range(4) for at, v in replay(log, user, spec, rings=rings).items()}
        assert sorted(replayed) == states.event.tolist()
        for i, at in enumerate(states.event.tolist()):
            assert same(states.view(i), replayed[at])
            seen, windows = seen + 1, windows + replayed[at].window
    assert seen > 500
    assert windows > 500


def test_a_short_window_closes_by_age_at_the_next_impression_group() -> None:
    spec = ViewSpec(history_long=6, history_short=3, threshold=4, window_age_ms=100)
    log = InteractionLog(
        *(np.array(c) for c in ([0, 4], [1, 2, 3, 4], [0, 0, 1, 1], [0, 50, 100, 101], [0] * 4, [0] * 4))
    )
    states = click_states(log, spec)
    young, aged = (states.view(i) for i in range(2))
    assert (young.window, young.window_items.tolist()) == (0, [])
    assert (aged.window, aged.window_items.tolist()) == (1, [1, 2])


@given(st.integers(0, 10_000), st.data())
@settings(max_examples=60)
def test_no_event_from_the_clicks_group_on_changes_its_view(seed: int, data: st.DataObject) -> None:
    log = random_log(seed, users=1)
    states = click_states(log, SPEC)
    if not len(states):
        return
    i = data.draw(st.integers(0, len(states) - 1))
    cut = int(states.group[i])
    rng, later = np.random.default_rng(seed), np.arange(len(log.keys)) >= cut
    keys = np.where(later, rng.integers(0, 1000, len(later)), log.keys)
    kinds = np.where(later & (np.arange(len(later)) != states.event[i]), rng.choice(4, len(later)), log.kinds)
    changed = click_states(InteractionLog(log.offsets, keys, kinds, log.times, log.impressions, log.epochs), SPEC)
    index = changed.event.tolist().index(int(states.event[i]))
    assert same(states.view(i), changed.view(index))


def test_rows_for_training_are_the_views_left_padded() -> None:
    states = click_states(random_log(3), SPEC)
    some = np.arange(len(states))
    history = states.history.gather(states.click_keys, some, SPEC.history_long, -1)
    window = states.closed.gather(states.exposure_keys, some, SPEC.threshold, -1)
    for i in some:
        seen = states.view(i)
        assert history[i].tolist() == [-1] * (SPEC.history_long - len(seen.history)) + seen.history.tolist()
        assert window[i].tolist() == [-1] * (SPEC.threshold - len(seen.window_items)) + seen.window_items.tolist()


def test_a_slate_is_the_clicks_impression_and_nothing_else() -> None:
    log = InteractionLog(
        *(np.array(c) for c in ([0, 5, 6], range(6), [0, 1, 2, 1, 1, 1], [0] * 6, [7, 7, 7, 0, 0, 7], [0] * 6))
    )
    groups = slates(click_states(log, SPEC))
    assert list(zip(groups.start.tolist(), groups.end.tolist(), strict=True)) == [(0, 3), (3, 4), (4, 5), (5, 6)]


def test_clicks_are_in_total_order() -> None:
    states = click_states(random_log(5), SPEC)
    listed = [(int(states.time[i]), int(states.user[i]), int(states.event[i])) for i in states.order()]
    assert listed == sorted(listed)
    assert len(listed) == len(states)


def test_an_empty_log_has_no_click() -> None:
    none = np.empty(0, np.int64)
    assert len(click_states(InteractionLog(np.array([0, 0]), none, none, none, none, none), SPEC)) == 0


def test_columns_that_do_not_fit_are_refused() -> None:
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="differ in length"):
        InteractionLog(np.array([0, 2]), two, two, one, two, two)
    for offsets in ([0, 1], [1, 2], [0, 2, 1, 2], []):
        with pytest.raises(ValueError, match="offsets"):
            InteractionLog(np.array(offsets, np.int64), two, two, two, two, two)
    with pytest.raises(ValueError, match="can't hold"):
        view(one, one, two, 1, 1, SPEC)


def test_a_million_events_are_counted_in_a_few_seconds() -> None:
    n, users = 1_000_000, 6_000
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.sort(rng.integers(0, n, users - 1)), [n]])
    zeros = np.zeros(n, np.int64)
    log = InteractionLog(offsets, rng.integers(0, 4000, n), rng.integers(0, 2, n), zeros, zeros, zeros)
    started = time.perf_counter()
    states = click_states(log, ViewSpec())
    assert len(states) > 400_000
    assert time.perf_counter() - started < 5
