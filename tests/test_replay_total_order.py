"""The total order, and what is kept of a log: in parts that are merged on disk, and by a naive fold in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replay.duckdb_session import database, integers, parquet
from replay.errors import RowErrors, SourceError
from replay.prepare import total_order
from replay.prepare.logged_impressions import GROUP_EVENTS
from replay.prepare.plan import MAX_IMPRESSION_MS
from replay.prepare.staged_log import StagedLog
from replay.prepare.total_order import Selection
from replay.sources.schema import Row
from streams.records import Kind
from tests.support.logs import batch, rows_of

ROW = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from("xyz"),
    st.integers(0, 8).map(lambda t: t * 1000),
    st.sampled_from([Kind.CLICK, Kind.EXPOSURE]),
    st.sampled_from([0, 0, 1, 2]),
)
LOGS = st.lists(ROW, min_size=1, max_size=30)


def naive(rows: list[Row], selection: Selection | None = None) -> list[tuple[Row, int]]:
    """Rows with their seq in total order: time of the impression group, user, first row of the group, time, row.

    Without exposures of an item that is clicked in the same impression.
    """
    selection = selection or Selection()
    names = {row[0] for row in rows}
    clicked = {(user, item, number) for user, item, _, kind, number in rows if number and kind == Kind.CLICK}
    rows = [row for row in rows if row[3] == Kind.CLICK or (row[0], row[1], row[4]) not in clicked]
    firsts: dict[tuple[str, int], tuple[int, int]] = {}
    for at, (user, _, time, _, impression) in enumerate(rows):
        if impression:
            firsts[user, impression] = min(firsts.get((user, impression), (time, at)), (time, at))
    users = sorted(names, key=lambda user: (hashlib.md5(user.encode()).hexdigest(), user))
    chosen = set(users[: selection.users])
    placed = []
    for at, row in enumerate(rows):
        user, _, time, _, impression = row
        group_time, group_row = firsts[user, impression] if impression else (time, at)
        late = selection.end is not None and group_time >= selection.end
        if group_time >= (selection.start or 0) and not late and user in chosen:
            placed.append(((group_time, user, group_row, time, at), row))
    seqs: dict[str, int] = {}
    found = []
    for _, row in sorted(placed):
        found.append((row, seqs.get(row[0], 0)))
        seqs[row[0]] = seqs.get(row[0], 0) + 1
    return found


def sorted_log(
    folder: Path, rows: list[Row], selection: Selection | None = None, size: int = 7, part: int = total_order.PART
) -> Path:
    """Sort rows, fed in batches of `size`, into a file."""
    log = StagedLog(folder / "staged")
    log.fill((batch(rows[at : at + size]) for at in range(0, len(rows), size)), lambda _rows: None)
    assert log.rows == len(rows)
    path = folder / "log.parquet"
    found = total_order.sort(log, selection or Selection(), MAX_IMPRESSION_MS, RowErrors().location, part)
    found.write(path)
    with database(folder) as connection:
        assert [found.rows] == integers(connection, f"SELECT count(*) FROM {parquet(path)}")
        if found.rows:
            assert found.contents == total_order.contents(connection, path, found.rows)
    return path


def stored(path: Path) -> list[tuple[Row, int]]:
    table = pq.read_table(path)
    rows = [row for part in table.to_batches() for row in rows_of(part)]
    return list(zip(rows, table["seq"].to_pylist(), strict=True))


@settings(max_examples=30)
@given(LOGS, st.integers(1, 9), st.integers(4, 40))
def test_the_order_is_that_of_impression_groups_then_users_then_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], size: int, part: int
) -> None:
    assert stored(sorted_log(tmp_path_factory.mktemp("order"), rows, size=size, part=part)) == naive(rows)


@settings(max_examples=20)
@given(LOGS, st.integers(0, 8), st.integers(1, 8), st.integers(1, 3))
@example([("a", "x", 1000, Kind.CLICK, 0)], 5, 1, 1)  # nothing is selected
def test_a_selection_splits_no_group_and_users_by_their_hash(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], start: int, length: int, users: int
) -> None:
    selection = Selection(start * 1000, (start + length) * 1000, users)
    assert stored(sorted_log(tmp_path_factory.mktemp("order"), rows, selection)) == naive(rows, selection)


def test_events_of_an_impression_stand_together_though_another_group_lies_between_them(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("a", "late", 5000, Kind.CLICK, 7),
        ("a", "between", 3000, Kind.CLICK, 0),
        ("a", "early", 1000, Kind.EXPOSURE, 7),
    ]
    assert [row[1] for row, _ in stored(sorted_log(tmp_path, rows))] == ["early", "late", "between"]


def test_identical_rows_are_events_each(tmp_path: Path) -> None:
    row: Row = ("a", "x", 1000, Kind.CLICK, 0)
    assert [seq for _, seq in stored(sorted_log(tmp_path, [row] * 5))] == [0, 1, 2, 3, 4]


def test_an_impression_too_large_for_a_record_is_refused_with_its_size(tmp_path: Path) -> None:
    row: Row = ("a", "x", 1000, Kind.EXPOSURE, 7)
    with pytest.raises(SourceError, match="impression 7 of user a has 2,001 events: at most 2,000"):
        sorted_log(tmp_path, [row] * (GROUP_EVENTS + 1), size=1000)


@given(LOGS, st.integers(1, 9), st.integers(1, 5))
def test_each_part_of_a_log_has_all_rows_of_its_users(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], size: int, number: int
) -> None:
    log = StagedLog(tmp_path_factory.mktemp("parts") / "staged")
    log.fill((batch(rows[at : at + size]) for at in range(0, len(rows), size)), lambda _rows: None)
    users, items = log.users.to_pylist(), log.items.to_pylist()
    found = {}
    seen: set[str] = set()
    for part in log.parts(number):
        columns = (part.time.tolist(), part.kind.tolist(), part.impression.tolist())
        names = [users[user] for user in part.user]
        assert part.row.tolist() == sorted(part.row)
        assert not seen & set(names)
        seen |= set(names)
        found |= dict(
            zip(part.row.tolist(), zip(names, (items[i] for i in part.item), *columns, strict=True), strict=True)
        )
    assert [found[row] for row in range(len(rows))] == rows


def test_a_full_disk_is_a_sentence_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "time").symlink_to("/dev/full")
    with pytest.raises(SourceError, match=r"full/time can't be written: .*No space left"):
        StagedLog(tmp_path / "full").fill([batch([("a", "x", 1000, Kind.CLICK, 0)])], lambda _rows: None)


def test_contents_count_what_is_there(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("a", "x", 1000, Kind.PAST_CLICK, 0),
        ("a", "y", 2000, Kind.CLICK, 7),
        ("a", "z", 2000, Kind.EXPOSURE, 7),
        ("b", "x", 3000, Kind.CLICK, 0),
        ("b", "y", 3000, Kind.CLICK, 0),  # a tie: another group of the same user at the same time
        ("c", "x", 9000, Kind.CLICK, 0),
    ]
    path = sorted_log(tmp_path, rows)
    with database(tmp_path) as connection:
        found = total_order.contents(connection, path, 5)  # a limit
    assert found == {
        "users": 2,
        "items": 3,
        "first": 1000,
        "last": 3000,
        "clicks": 3,
        "exposures": 1,
        "past_clicks": 1,
        "candidates": 0,
        "impressions": 1,
        "ties": 2,
    }


def test_a_file_name_with_a_quote_is_a_file_name(tmp_path: Path) -> None:
    folder = tmp_path / "o'neill"
    folder.mkdir()
    assert len(stored(sorted_log(folder, [("a", "x", 1000, Kind.CLICK, 0)]))) == 1
