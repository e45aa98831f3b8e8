"""Values that are not in a column of their own: fields inside objects, and times in two columns."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.errors import RowErrors, SourceError
from replay.sources.log_map import Column, LogMap
from replay.sources.source import parse
from replay.suggest.suggestion import suggestion
from tests.support.logs import HEADER, rows_of, write

T = 1_684_393_203  # s
NESTED = LogMap(columns={"user": "by.user.id", "item": "item.id", "timestamp": "ts"}, event="click")


def read(path: Path, log_map: LogMap, errors: RowErrors | None = None) -> list[tuple[str, str, int]]:
    batches = parse(f"log:{path}", log_map).read("logged", errors or RowErrors())
    return [row[:3] for batch in batches for row in rows_of(batch)]


def nested(user: object, item: object, **others: object) -> dict[str, object]:
    return {"by": {"user": {"id": user}}, "item": {"id": item, "kind": "film"}, "ts": T, **others}


def test_fields_inside_objects_are_read_in_json_and_parquet_and_missing_ones_are_refused(tmp_path: Path) -> None:
    rows = [nested("u", "i"), nested("v", "j"), nested(None, "j"), {**nested("w", "k"), "by": None}]
    lines = write(tmp_path / "a.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), table := tmp_path / "a.parquet")
    for path in (lines, table):
        errors = RowErrors("skip")
        assert read(path, NESTED, errors) == [("u", "i", T * 1000), ("v", "j", T * 1000)]
        assert errors.total == 2
        assert '"user" = "by.user.id", "item" = "item.id"' in suggestion(f"log:{path}", None)


def test_a_column_that_is_called_like_a_path_comes_first(tmp_path: Path) -> None:
    row = nested("u", "i", **{"item.id": "own"})
    lines = write(tmp_path / "a.jsonl", json.dumps(row) + "\n")
    pq.write_table(pa.Table.from_pylist([row]), table := tmp_path / "a.parquet")
    comma = write(tmp_path / "a.csv", f"by.user.id,item.id,ts\nu,own,{T}\n")
    assert [read(path, NESTED) for path in (lines, table, comma)] == [[("u", "own", T * 1000)]] * 3


def test_a_field_that_an_inner_object_has_twice_is_refused(tmp_path: Path) -> None:
    line = json.dumps(nested("u", "i"))
    path = write(tmp_path / "a.jsonl", line + "\n" + line.replace('"id": "i"', '"id": "i", "id": "j"') + "\n")
    read(path, NESTED, errors := RowErrors("skip"))
    assert errors.first == [f"{path}, line 2: wrong columns (id occurs twice in 'id,kind')"]


def test_a_struct_as_a_column_is_refused_with_the_name_of_a_field(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([nested("u", "i")]), path := tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"name one of its fields, such as item\.id"):
        read(path, LogMap(columns={"user": "by.user.id", "item": "item", "timestamp": "ts"}, event="click"))


@pytest.mark.parametrize(
    ("date", "time", "time_format", "valid"),
    [
        ("2021-01-02", "10:11:12", None, True),
        (" 2021-01-02 00:00:00.000", "10:11:12 ", None, True),
        ("20210102", "101112", None, True),
        ("20210102", "01112", None, False),  # 00:11:12 or 01:11:2
        ("20210102", "1011", None, False),  # 10:11 or 00:10:11
        ("02/01/2021", "10:11:12 AM", "%d/%m/%Y %I:%M:%S %p", True),
        ("02/01/2021", "1011", "%d/%m/%Y %H%M", True),
        ("02/01/2021", "11112", "%d/%m/%Y %H%M%S", False),
        ("2021-01-02", "", None, False),
        ("", "10:11:12", None, False),
    ],
)
def test_a_date_and_a_time_of_the_day_are_joined(
    tmp_path: Path, date: str, time: str, time_format: str | None, *, valid: bool
) -> None:
    path = write(tmp_path / "a.csv", f"user,item,day,hour\nu,i,{date},{time}\n")
    lines = write(tmp_path / "a.jsonl", json.dumps({"user": "u", "item": "i", "day": date, "hour": time}))
    for columns in ("day+hour", "3+4"):
        fields: dict[Column, str] = {"user": "user", "item": "item", "timestamp": columns}
        log_map = LogMap(columns=fields, event="click", time_format=time_format)
        for log in (path, lines):
            rows = read(log, log_map, errors := RowErrors("skip"))
            assert (len(rows), errors.total) == (valid, not valid)
            minute = dt.datetime(2021, 1, 2, 10, 11, tzinfo=dt.UTC).timestamp() * 1000
            assert all(row[2] in (minute, minute + 12_000) for row in rows)


def test_dates_and_times_of_parquet_are_joined(tmp_path: Path) -> None:
    day = dt.datetime(2021, 1, 2)  # noqa: DTZ001 - as pandas writes a date
    table = {"user": ["u", "v"], "item": ["i", "j"], "day": [day] * 2, "hour": [dt.time(10, 11, 12), None]}
    for kind in (pa.timestamp("ns"), pa.date32()):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table(table).set_column(2, "day", pa.array([day] * 2).cast(kind)), path)
        log_map = LogMap(columns={"timestamp": "day+hour"}, event="click")
        assert read(path, log_map, errors := RowErrors("skip")) == [("u", "i", 1_609_582_272_000)]
        assert errors.first == [f"{path}, row 2: time is missing"]


def test_a_map_of_numbers_only_reads_line_1_as_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "u,i,2021-01-02,10:11:12\n")
    columns = LogMap(columns={"user": "1", "item": "2", "timestamp": "3+4"}, event="click")
    assert read(path, columns) == [("u", "i", 1_609_582_272_000)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("2021-01-13,10:11:12", '"timestamp" = "date+time"'),
        ("13.01.2021,1:11 PM", 'time_format = "%d.%m.%Y %I:%M %p"'),
        ("2021-01-13 10:11:12,10:11:12", '"timestamp" = "date"'),
    ],
)
def test_two_columns_of_a_time_are_suggested(tmp_path: Path, row: str, expected: str) -> None:
    path = write(tmp_path / "a.csv", HEADER.replace("timestamp", "date,time") + f"u,i,{row},click\n" * 3)
    assert expected in suggestion(f"log:{path}", None)


def test_a_field_of_a_map_for_another_kind_of_log_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + f"u,i,{T},click\n")
    for log_map, says in ((LogMap(nested="events"), "only JSON lines"), (LogMap(parts="*.csv"), "is no folder")):
        with pytest.raises(SourceError, match=says):
            read(path, log_map)


def test_a_truth_value_among_floats_is_no_number(tmp_path: Path) -> None:
    rows = [{"user": user, "item": "i", "timestamp": T, "event": "click"} for user in (2.0, True, 1.0)]
    path = write(tmp_path / "a.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    found = read(path, LogMap(), errors := RowErrors("skip"))
    assert ([row[0] for row in found], errors.total) == (["2", "1"], 1)


def test_two_columns_of_one_name_in_parquet_are_refused_if_they_are_read(tmp_path: Path) -> None:
    names = ["user", "item", "timestamp", "event"]
    for extra, refused in (("user", True), ("note", False)):
        values = [pa.array([value]) for value in ("u", "i", T, "click", "x", "y")]
        pq.write_table(pa.table(values, names=[*names, extra, extra]), path := tmp_path / "a.parquet")
        if refused:
            with pytest.raises(SourceError, match="user occurs twice"):
                read(path, LogMap())
        else:
            assert read(path, LogMap()) == [("u", "i", T * 1000)]


def test_one_column_and_a_word_of_another_spelling_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER.replace(",", "^"))
    with pytest.raises(SourceError, match="line 1 is one column if ',' separates columns: --separator"):
        read(path, LogMap())
    path = write(tmp_path / "b.csv", HEADER + f"u,i,{T}, Click\n")
    with pytest.raises(SourceError, match="' Click': case and blanks matter, --events"):
        read(path, LogMap())


@pytest.mark.parametrize("line", ["sep=;", "SEP=;", '"sep=;"'])
def test_a_first_line_that_names_the_separator_is_no_header(tmp_path: Path, line: str) -> None:
    text = HEADER.replace(",", ";") + f"u;i;{T};click\n"
    path = write(tmp_path / "a.csv", f"{line}\r\n{text}")
    assert read(path, LogMap()) == [("u", "i", T * 1000)]
