"""A sorted log read back: impression groups, slices, epochs, loops and batches."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import SourceError
from replay.prepare import impression_groups
from replay.send.batching import BATCH_EVENTS, grouped
from replay.send.sorted_log import LogSlice, SortedLog
from replay.sources.schema import ROWS, Row
from streams.kafka.message import check_batch
from streams.records import DeviceBatch, Kind
from tests.support.logs import batch

UNITS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3_600_000), st.integers(0, 4)), min_size=1, max_size=40
)
Sorted = tuple[Path, list[Row], list[int]]


def written(folder: Path, found: list[tuple[str, int, int]], group: int) -> Sorted:
    """A sorted log of impression groups (user, gap in ms, size; 0: no impression), its rows and their seqs."""
    rows: list[Row] = []
    time = 1_000_000
    for n, (user, gap, size) in enumerate(found):
        time += gap
        rows += [(user, f"i{n}.{k}", time, Kind.EXPOSURE, n + 1 if size else 0) for k in range(size or 1)]
    seqs: list[int] = []
    for at, row in enumerate(rows):
        seqs.append(sum(before[0] == row[0] for before in rows[:at]))
    table = pa.Table.from_batches([batch(rows)], ROWS).append_column("seq", pa.array(seqs, pa.int64()))
    pq.write_table(table, folder / "log.parquet", row_group_size=group)
    return folder / "log.parquet", rows, seqs


def borders(rows: list[Row]) -> list[int]:
    """Return the first index of each group, and the end."""
    same = [b[4] and (a[0], a[4]) == (b[0], b[4]) for a, b in pairwise(rows)]
    return [0, *(n for n, together in enumerate(same, 1) if not together), len(rows)]


@settings(max_examples=40)
@given(UNITS, st.integers(1, 9), st.integers(1, 9))
def test_impression_groups_are_found_across_batches_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, int, int]], group: int, size: int
) -> None:
    path, rows, _ = written(tmp_path_factory.mktemp("log"), found, group)
    firsts = [int(first) for part, _ in impression_groups.group_rows(path) for first in part]
    assert firsts == borders(rows)[:-1]
    before, begins = None, []
    for part in impression_groups.read_batches(path, ROWS.names, size):
        begins += impression_groups.group_starts(part, before).tolist()
        before = part["user"][-1].as_py(), part["impression"][-1].as_py()
    assert [n for n, begin in enumerate(begins) if begin] == firsts


@settings(max_examples=40)
@given(UNITS, st.integers(1, 9), st.integers(1, 60))
def test_a_limit_never_cuts_a_unit(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, int, int]], group: int, limit: int
) -> None:
    path, rows, _ = written(tmp_path_factory.mktemp("log"), found, group)
    kept = impression_groups.rows_within(path, len(rows), limit)
    assert kept == max(end for end in borders(rows) if end <= limit)
    assert impression_groups.rows_within(path, len(rows), None) == len(rows)


@settings(max_examples=40)
@given(UNITS, st.integers(1, 9), st.sampled_from([None, "1", "7", "1h", "90s"]))
def test_epochs_end_where_groups_end_none_is_empty_and_all_are_covered(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, int, int]], group: int, epoch: str | None
) -> None:
    path, rows, _ = written(tmp_path_factory.mktemp("log"), found, group)
    ends = impression_groups.epoch_ends(path, len(rows), epoch)
    assert set(ends) <= set(borders(rows))
    assert all(a < b for a, b in pairwise([0, *ends]))
    assert ends[-1] == len(rows)
    if epoch in {"1h", "90s"}:
        length = 3_600_000 if epoch == "1h" else 90_000
        for begin, end in pairwise([0, *ends]):
            assert len({rows[at][2] // length for at in range(begin, end)}) == 1
        assert len(ends) == len({row[2] // length for row in rows})


@pytest.mark.parametrize("epoch", ["0", "-1", "often", "1.5h", ""])
def test_an_epoch_that_is_none_is_refused(tmp_path: Path, epoch: str) -> None:
    path, rows, _ = written(tmp_path, [("a", 0, 0)], 9)
    with pytest.raises(SourceError, match="epoch"):
        impression_groups.epoch_ends(path, len(rows), epoch)


def events(slices: list[LogSlice]) -> list[tuple[Any, ...]]:
    return [
        (group.user, s.items[n], s.times[n], s.kinds[n], s.impressions[n], s.seqs[n])
        for s in slices
        for group in s.groups
        for n in range(group.first, group.end)
    ]


@settings(max_examples=40)
@given(UNITS, st.integers(1, 9), st.data())
def test_slices_hold_every_row_once_and_split_no_group(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, int, int]], group: int, data: st.DataObject
) -> None:
    path, rows, seqs = written(tmp_path_factory.mktemp("log"), found, group)
    first, end = sorted(data.draw(st.lists(st.sampled_from(borders(rows)), min_size=2, max_size=2, unique=True)))
    slices = list(SortedLog(path, len(rows), 1, 0).slices(first, end))
    assert events(slices) == [(*row, seq) for row, seq in zip(rows, seqs, strict=True)][first:end]
    own = [b - a for a, b in pairwise(borders(rows)) if first <= a < end]
    assert [group.end - group.first for s in slices for group in s.groups] == own


@settings(max_examples=40)
@given(UNITS, st.integers(1, 9))
def test_a_loop_comes_later_and_goes_on_counting(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, int, int]], group: int
) -> None:
    path, rows, seqs = written(tmp_path_factory.mktemp("log"), found, group)
    n, shift = len(rows), rows[-1][2] - rows[0][2] + 1
    log = SortedLog(path, n, 3, shift)
    loops = [events(list(log.slices(loop * n, (loop + 1) * n))) for loop in range(3)]
    counts = {user: sum(row[0] == user for row in rows) for user in "ab"}
    for loop, one in enumerate(loops):
        for (user, item, time, kind, impression, seq), row, before in zip(one, rows, seqs, strict=True):
            assert (user, item, kind, bool(impression)) == (row[0], row[1], row[3], bool(row[4]))
            assert time == row[2] + loop * shift
            assert seq == before + loop * counts[user]
    for one, other in pairwise(loops):  # the seam of two loops is no impression
        assert not one[-1][4] or one[-1][4] != other[0][4]


@settings(max_examples=60)
@given(UNITS, st.integers(1, 9), st.integers(1, 20))
def test_batches_keep_each_users_order_and_split_no_unit(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, int, int]], group: int, loop: int
) -> None:
    found = [(user, gap, size * 15) for user, gap, size in found]
    path, rows, _ = written(tmp_path_factory.mktemp("log"), found, group * 10)
    log = SortedLog(path, len(rows), loop + 1, 1)
    for part in log.slices(loop * len(rows), (loop + 1) * len(rows)):
        sent: dict[str, list[DeviceBatch]] = {}
        for one in grouped(part, part.groups, 5):
            check_batch(one)  # what devices refuse is not sent
            sent.setdefault(one.user, []).append(one)
            assert len(one.items) <= max(BATCH_EVENTS, 60)
        for user, batches in sent.items():
            own = [event for event in events([part]) if event[0] == user]
            flat = [
                (user, b.items[n], b.times[n], b.kinds[n], b.impressions[n], b.seq + n)
                for b in batches
                for n in range(len(b.items))
            ]
            assert flat == own
            for one, other in pairwise(batches):
                assert not one.impressions[-1] or one.impressions[-1] != other.impressions[0]
