"""Logs of which a row is an impression: the slate in one cell, its clicks marked in there or named beside it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from replay.errors import RowErrors
from replay.sources.log_map import LogMap, Slate
from replay.sources.schema import Row
from replay.sources.source import parse
from streams.records import Kind
from tests.support.logs import rows_of, write

T = 1_684_393_203  # s
CLICK, EXPOSURE, PAST = Kind.CLICK, Kind.EXPOSURE, Kind.PAST_CLICK
MARKED = LogMap(
    columns={"impression": "1", "user": "2", "timestamp": "3"},
    history="4",
    slate=Slate(column="5", click_suffix="-1", exposure_suffix="-0"),
)
NAMED = LogMap(
    columns={"user": "user_id", "item": "reference", "timestamp": "timestamp", "event": "action"},
    events={"clickout item": "click", "search": "ignore"},
    slate=Slate(column="impressions", separator="|"),
)


def mapped(path: Path, log_map: LogMap, errors: RowErrors | None = None) -> list[Row]:
    source = parse(f"log:{path}", log_map)
    return [row for batch in source.read("logged", errors or RowErrors()) for row in rows_of(batch)]


def test_a_slate_with_marked_clicks_is_an_impression(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", f"7\tU1\t{T}\t\tN1-0 N-1-1  N3-0\n8\tU2\t{T + 1}\t\tN1-0\n")
    assert mapped(path, MARKED) == [
        ("U1", "N1", T * 1000, EXPOSURE, 7),
        ("U1", "N-1", T * 1000, CLICK, 7),
        ("U1", "N3", T * 1000, EXPOSURE, 7),
        ("U2", "N1", (T + 1) * 1000, EXPOSURE, 8),
    ]


def test_a_history_is_past_clicks_in_order_before_the_first_event_of_the_log_once_per_user(tmp_path: Path) -> None:
    rows = [
        f"1\tU1\t{T + 9}\tA B\tN1-1",
        f"2\tU2\t{T}\t\tN1-0",
        f"3\tU1\t{T + 10}\tA B\tN2-1",
        f"4\tU2\t{T + 1}\tC\tN1-1",
    ]
    found = mapped(write(tmp_path / "a.tsv", "\n".join(rows)), MARKED)
    past = [row for row in found if row[3] == PAST]
    assert past == [("U1", "A", T * 1000 - 2, PAST, 0), ("U1", "B", T * 1000 - 1, PAST, 0)]
    assert len(found) == 6


def test_a_row_that_is_refused_is_not_read_as_a_history(tmp_path: Path) -> None:
    lines = ["1\tU1\tnever\tH1\tN1-1", f"2\t\t{T}\tH2\tN1-1", f"3\tU1\t{T}\tH3\tN1-1"]
    errors = RowErrors("skip")
    rows = mapped(write(tmp_path / "a.tsv", "\n".join(lines)), MARKED, errors)
    assert [row[:2] for row in rows] == [("U1", "H3"), ("U1", "N1")]
    assert errors.total == 2


def test_the_click_beside_a_slate_is_its_item_or_comes_after_it(tmp_path: Path) -> None:
    head = "user_id,timestamp,action,reference,impressions\n"
    rows = [
        f"u,{T},clickout item,b,a|b|c",
        f"u,{T + 1},clickout item,z,a|b",
        f"u,{T + 2},search,x,",
        f"u,{T + 3},clickout item,d,",
        f"u,{T + 4},odd,d,a|b",
    ]
    path, errors = write(tmp_path / "a.csv", head + "\n".join(rows)), RowErrors("skip")
    found = mapped(path, NAMED, errors)
    assert [(row[1], row[2] // 1000 - T, row[3], row[4]) for row in found] == [
        ("a", 0, EXPOSURE, 2),
        ("b", 0, CLICK, 2),
        ("c", 0, EXPOSURE, 2),
        ("a", 1, EXPOSURE, 3),
        ("b", 1, EXPOSURE, 3),
        ("z", 1, CLICK, 3),
        ("d", 3, CLICK, 0),
    ]
    assert errors.first == [f"{path}, line 6: unknown event kind ('odd')"]
    assert errors.left_out.total() == 1


def test_slates_in_lists_of_parquet_are_read_too(tmp_path: Path) -> None:
    table = pa.table(
        {"user_id": [1], "timestamp": [T], "action": ["click"], "reference": [8], "impressions": [[7, 8, 9]]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = mapped(tmp_path / "a.parquet", NAMED)
    assert [(row[1], row[3]) for row in found] == [("7", EXPOSURE), ("8", CLICK), ("9", EXPOSURE)]


def test_the_impressions_of_two_files_are_not_the_same(tmp_path: Path) -> None:
    for n in range(2):
        write(tmp_path / f"{n}.csv", f"user_id,timestamp,action,reference,impressions\nu,{T},clickout item,b,a|b\n")
    assert len({row[4] for row in mapped(tmp_path, NAMED)}) == 2


def test_a_bad_item_of_a_slate_is_refused_alone_and_a_row_without_a_slate_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", f"1\tU1\t{T}\t\tN1-0 NULL-1 N3-1\n2\tU1\t{T}\t\t\n3\tU1\tthen\t\tN1-0 N2-1\n")
    errors = RowErrors("skip")
    assert [row[1] for row in mapped(path, MARKED, errors)] == ["N1", "N3"]
    assert errors.counts == {
        "item is a placeholder for no value": 1,
        "item is neither a string nor an integer": 1,
        "time is neither a number nor ISO 8601": 2,
    }


def test_lists_of_events_in_json_lines_are_events(tmp_path: Path) -> None:
    nested = LogMap(columns={"user": "session", "item": "aid", "timestamp": "ts", "event": "type"}, nested="events")
    lines = [
        f'{{"session": 3, "events": [{{"aid": 1, "ts": {T}, "type": "click"}}, {{"aid": 2, "ts": 3, "type": "odd"}}]}}',
        '{"session": 4, "events": 5}',
        '{"session": 5, "events": []}',
    ]
    path, errors = write(tmp_path / "a.jsonl", "\n".join(lines)), RowErrors("skip")
    assert mapped(path, nested, errors) == [("3", "1", T * 1000, CLICK, 0)]
    assert errors.counts == {"unknown event kind": 1, "events is no list of objects": 1}
