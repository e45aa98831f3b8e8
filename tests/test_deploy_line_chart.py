"""Line charts as SVG."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.report.line_chart import Chart, Series, spread, ticks
from deploy.report.time_axis import TimeAxis

AXIS = TimeAxis([1, 2, 3, 4, 5], 0, 5)


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
    svg = Chart("t", "d", AXIS, [Series("s", [1.0, 2.0, None, 2.0, 1.0], 0)]).svg()
    path = re.search(r'class="line[^"]*" d="([^"]*)"', svg)
    assert path is not None
    assert path[1].count("M") == 2


def test_a_chart_has_a_title_and_a_description() -> None:
    svg = Chart("HR & more", "what <it> says", AXIS, [Series("s", [1.0, 2.0], 0)]).svg()
    assert "<title id=" in svg
    assert "HR &amp; more" in svg
    assert "what &lt;it&gt; says" in svg


@given(st.integers(0, 10**12), st.integers(0, 10**11))
def test_labels_below_the_axis_are_few_and_even_from_the_first_event_to_the_last(first: int, span: int) -> None:
    axis = TimeAxis([first], first, first + span)
    positions = [position for position, _ in axis.ticks()]
    assert 1 <= len(positions) <= 5
    if span:
        assert (positions[0], positions[-1]) == (0, 1)
        assert axis.ticks()[-1][1] == axis.label(first + span)
        assert all(b - a == pytest.approx(1 / (len(positions) - 1)) for a, b in itertools.pairwise(positions))


def test_points_are_drawn_at_their_event_time() -> None:
    axis = TimeAxis([1000, 2000, 9000], 0, 10_000)
    chart = Chart("t", "d", axis, [Series("s", [1.0, 2.0, 3.0], 0)])
    path = re.search(r'class="line[^"]*" d="([^"]*)"', chart.svg())
    assert path is not None
    xs = [float(x) for x in re.findall(r"[ML]([\d.]+) ", path[1])]
    assert (xs[2] - xs[1]) / (xs[1] - xs[0]) == pytest.approx(7, rel=0.01)
    assert json.loads(chart.points())["at"] == xs
