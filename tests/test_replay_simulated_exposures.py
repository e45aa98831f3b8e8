"""The policy `simulated`: exposures that know the log's past only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import SourceError
from replay.prepare.simulated_exposures import FRESH, SHOWN, Popularity, simulated, uniform
from replay.sources.schema import ROWS, Row
from streams.records import Kind
from tests.support.logs import batch, rows_of

CLICK = st.tuples(st.sampled_from("abc"), st.sampled_from("uvwxyz"), st.sampled_from([0, 0, 0, 5]))
LOGS = st.lists(CLICK, min_size=1, max_size=60).map(
    lambda clicks: [(user, item, n * 1000, Kind.CLICK, unit) for n, (user, item, unit) in enumerate(clicks)]
)


def added(folder: Path, rows: list[Row], seed: int = 1, limit: int | None = None, group: int = 16) -> list[Row]:
    """The log with simulated exposures."""
    pq.write_table(pa.Table.from_batches([batch(rows)], ROWS), folder / "log.parquet", row_group_size=group)
    batches = list(simulated(folder / "log.parquet", limit or len(rows), seed, "log:x"))
    places = [place for one in batches for place in one["position"].to_pylist()]
    assert places == list(range(len(places)))
    return [row for one in batches for row in rows_of(one)]


def parts(rows: list[Row]) -> list[tuple[list[str], Row]]:
    """Each click with the exposures before it."""
    found, shown = [], []
    for row in rows:
        if row[3] == Kind.EXPOSURE:
            shown.append(row)
        else:
            assert all((e[0], e[2], e[4]) == (row[0], row[2], row[4]) for e in shown), "one unit with the click"
            found.append(([e[1] for e in shown], row))
            shown = []
    assert not shown
    return found


@settings(max_examples=50)
@given(LOGS)
def test_clicks_stay_and_get_exposures_that_were_in_the_log_before(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row]
) -> None:
    found = parts(added(tmp_path_factory.mktemp("exposures"), rows))
    assert [row[:4] for _, row in found] == [row[:4] for row in rows]
    for n, (shown, click) in enumerate(found):
        assert len(shown) <= SHOWN
        assert len({*shown, click[1]}) == len(shown) + 1, "neither the click nor each other"
        assert set(shown) <= {row[1] for row in rows[:n]}
        assert click[4] < 0, "a unit, but no slate"


@settings(max_examples=50)
@given(LOGS, st.data())
def test_altering_later_events_changes_nothing_earlier(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(rows)), "cut")
    later = data.draw(LOGS, "later")
    folder = tmp_path_factory.mktemp("exposures")
    one = parts(added(folder, rows))
    other = parts(added(folder, rows[:cut] + later))
    assert [shown for shown, _ in one][:cut] == [shown for shown, _ in other][:cut]


@settings(max_examples=25)
@given(LOGS, st.integers(1, 60), st.integers(1, 20))
def test_neither_a_limit_nor_row_groups_change_what_is_shown(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], limit: int, group: int
) -> None:
    folder = tmp_path_factory.mktemp("exposures")
    whole = parts(added(folder, rows))
    limit = min(limit, len(rows))
    assert parts(added(folder, rows, limit=limit, group=group)) == whole[:limit]


def test_the_draws_are_of_the_seed(tmp_path: Path) -> None:
    rows: list[Row] = [("a", f"i{n % 50}", n, Kind.CLICK, 0) for n in range(500)]
    assert added(tmp_path, rows) == added(tmp_path, rows)
    assert added(tmp_path, rows) != added(tmp_path, rows, seed=2)


def test_an_item_is_shown_in_proportion_to_its_clicks_until_then(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    items = generator.choice(["often", "now and then", "seldom"], 20_000, p=[0.7, 0.25, 0.05])
    rows: list[Row] = [("a", "target", n, Kind.CLICK, 0) for n in range(len(items))]
    rows = [(u, str(item), t, k, i) for (u, _, t, k, i), item in zip(rows, items, strict=True)]
    rows += [("b", "target", 10**6 + n, Kind.CLICK, 0) for n in range(FRESH // 2)]
    found = parts(added(tmp_path, rows))
    first = [shown[0] for shown, row in found[-FRESH // 2 :] if shown]
    share = first.count("often") / len(first)
    assert abs(share - 0.7) < 0.04


def test_each_event_without_impression_is_a_group_of_its_own_and_an_impression_is_one(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("a", "u", 1, Kind.CLICK, 0),
        ("a", "v", 1, Kind.CLICK, 0),
        ("a", "w", 2, Kind.CLICK, 9),
        ("a", "x", 3, Kind.CLICK, 9),
    ]
    units = [row[4] for _, row in parts(added(tmp_path, rows))]
    assert units[0] != units[1] != units[2] == units[3]


def test_past_clicks_are_shown_nothing(tmp_path: Path) -> None:
    rows: list[Row] = [("a", f"i{n}", n, Kind.PAST_CLICK, 0) for n in range(50)]
    assert len(added(tmp_path, rows)) == 50


def test_a_log_with_exposures_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the log has its own: use the policy logged"):
        added(tmp_path, [("a", "u", 1, Kind.EXPOSURE, 0)])


@given(st.integers(0, 2**31), st.integers(0, 2**40))
def test_the_numbers_of_a_place_do_not_depend_on_its_neighbours(seed: int, place: int) -> None:
    alone = uniform(seed, np.array([place]), SHOWN)
    among = uniform(seed, np.arange(place - 3, place + 3), SHOWN) if place > 3 else alone
    assert (among[3 if place > 3 else 0] == alone[0]).all()
    assert ((alone >= 0) & (alone < 1)).all()


def test_draws_before_anything_was_counted_are_none_and_every_item_is_within_reach() -> None:
    popularity = Popularity()
    assert (popularity.draw(np.array([0.0, 0.99])) == -1).all()
    popularity.codes(["a", "b", "b", "a", "c"])
    assert (popularity.draw(np.array([0.5])) == -1).all(), "not before it is refreshed"
    popularity.refresh()
    drawn = popularity.draw(np.array([0.0, 0.39, 0.41, 0.79, 0.81, np.nextafter(1, 0)]))
    assert [popularity.names[code] for code in drawn] == ["a", "a", "b", "b", "c", "c"]
