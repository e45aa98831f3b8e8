"""The window rule and the impression-group rule: what is shared by the stream, training and evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from models.data.impression_groups import begins_group, first_of_group, group_ranges, same_group
from models.data.windows import WindowCursor, WindowRule, closed_by_count, split_windows


def test_a_window_closes_with_the_exposure_that_fills_it() -> None:
    cursor = WindowCursor.at(WindowRule(threshold=3), 5)
    seen = []
    for time in range(7):
        cursor.expose(time)
        seen.append((cursor.start, cursor.end, cursor.number))
    assert seen == [(5, 5, 0), (5, 5, 0), (5, 8, 1), (5, 8, 1), (5, 8, 1), (8, 11, 2), (8, 11, 2)]
    assert cursor.position == 12


def test_a_window_closes_by_age_only_after_the_age_and_only_if_it_holds_an_exposure() -> None:
    cursor = WindowCursor.at(WindowRule(threshold=3, window_age_ms=100), 0)
    cursor.begin_group(1000)
    assert cursor.number == 0
    cursor.expose(1000)
    cursor.begin_group(1100)
    assert cursor.number == 0
    cursor.begin_group(1101)
    assert (cursor.start, cursor.end, cursor.number) == (0, 1, 1)


def test_without_an_age_no_window_closes_by_age() -> None:
    assert not WindowRule().closes_by_age(1, 0, 1 << 60)


def test_counting_gives_the_windows_of_the_walk() -> None:
    rule = WindowRule(threshold=4)
    cursor, walked = WindowCursor.at(rule, 0), []
    for time in range(30):
        walked.append((cursor.start, cursor.end, cursor.number))
        cursor.expose(time)
    assert list(zip(*(column.tolist() for column in closed_by_count(rule, np.arange(30))), strict=True)) == walked


def test_exposures_split_into_the_closed_and_the_open_window() -> None:
    assert split_windows([1, 2, 3, 4, 5], 2, 2) == ([2, 3], [4, 5])
    assert split_windows([1, 2], 0, 0) == ([], [])
    for counts in ((1, 2), (-1, 1), (0, 3)):
        with pytest.raises(ValueError, match="can't hold"):
            split_windows([1, 2], *counts)


def test_adjacent_events_of_one_impression_are_a_group_and_an_event_without_one_is_its_own() -> None:
    assert not same_group(0, 0)
    assert list(group_ranges([7, 7, 0, 0, -3, -3, 7])) == [(0, 2), (2, 3), (3, 4), (4, 6), (6, 7)]
    assert list(group_ranges([7, 7, 7], 1)) == [(1, 3)]
    assert list(group_ranges([])) == []


def test_groups_of_a_log_end_with_the_user() -> None:
    users, impressions = np.array([0, 0, 0, 1, 1, 1]), np.array([4, 4, 5, 5, 0, 0])
    same_user = users[1:] == users[:-1]
    assert begins_group(impressions, same_user).tolist() == [True, False, True, True, True, True]
    assert first_of_group(impressions, same_user).tolist() == [0, 0, 2, 3, 4, 5]
    none = np.empty(0, np.int64)
    assert first_of_group(none, none.astype(bool)).tolist() == []


def test_both_forms_of_the_group_rule_agree() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        impressions = rng.integers(0, 3, 20)
        starts = np.flatnonzero(begins_group(impressions, np.ones(19, bool)))
        assert [start for start, _ in group_ranges(impressions.tolist())] == starts.tolist()
