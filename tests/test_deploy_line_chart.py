"""Charts as SVG: what is drawn is what was given."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from deploy.report.line_chart import Chart, Series, spread, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_surround_what_they_measure(low: float, span: float) -> None:
    marks = ticks(low, low + span)
    slack = span * 1e-6 + abs(low) * 1e-9
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack
    assert 2 <= len(marks) <= 9


@given(st.lists(st.floats(0, 100), max_size=7))
def test_labels_are_spread_in_order_and_stay_inside(wanted: list[float]) -> None:
    placed = spread(wanted, 13, 0, 100)
    assert sorted(range(len(wanted)), key=wanted.__getitem__) == sorted(range(len(wanted)), key=placed.__getitem__)
    heights = sorted(placed)
    assert all(b - a >= 13 - 1e-6 for a, b in itertools.pairwise(heights))
    assert all(-1e-6 <= height <= 100 + 1e-6 for height in placed)


def test_a_gap_in_a_series_is_a_gap_in_its_line() -> None:
    svg = Chart("t", "d", ["a", "b", "c", "d", "e"], [Series("s", [1.0, 2.0, None, 2.0, 1.0], 0)]).svg()
    path = re.search(r'class="line[^"]*" d="([^"]*)"', svg)
    assert path is not None
    assert path[1].count("M") == 2


def test_a_picture_says_in_words_what_it_shows() -> None:
    svg = Chart("HR & more", "what <it> says", ["a", "b"], [Series("s", [1.0, 2.0], 0)]).svg()
    assert "<title id=" in svg
    assert "HR &amp; more" in svg
    assert "what &lt;it&gt; says" in svg


@given(st.integers(1, 300))
def test_labels_below_the_axis_are_few_and_evenly_apart(n: int) -> None:
    svg = Chart("t", "d", [f"at {i}" for i in range(n)], [Series("s", [1.0] * n, 0)]).svg()
    places = [int(place) for place in re.findall(r">at (\d+)<", svg)]
    assert places[0] == 0
    assert len(places) <= 6
    assert len({b - a for a, b in itertools.pairwise(places)}) <= 1
