"""The generic exposure log: the same rows from every format, and a reason for what is no row."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import RowError, RowErrors, SourceError
from replay.sources.columns import NO_IMPRESSION, NO_VALUE, impression
from replay.sources.schema import IMPRESSIONS, Row
from replay.sources.source import parse
from streams.records import Kind
from tests.support.logs import HEADER, read, skipped, write

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=12)
IDS = (NAMES | st.integers(-(10**9), 10**12).map(str)).filter(lambda name: name.strip().lower() not in NO_VALUE)
SPELLINGS = ("NULL", "null", "NaN", "nan", "None", "none", "\\N", " ", "-1")
NOW = 1_700_000_000  # a plausible second; the tests count from it
EVENTS = st.tuples(IDS, IDS, st.integers(NOW, NOW + 10**8), st.sampled_from(["click", "exposure"]), st.none() | IDS)
FORMATS = ("a.csv", "a.csv.gz", "a.jsonl", "a.json.gz", "a.parquet")
COLUMNS = ("user", "item", "timestamp", "event", "impression")


def save(path: Path, rows: list[tuple[Any, ...]], columns: tuple[str, ...] = COLUMNS) -> Path:
    """Write rows in the format that the file's name says."""
    if path.suffix == ".parquet":
        values = [list(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(columns, values, strict=True))), path)
        return path
    if ".csv" in path.name:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        return write(path, text.getvalue())
    return write(path, "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))


def expected(rows: list[tuple[Any, ...]]) -> list[Row]:
    kinds = {"click": Kind.CLICK, "exposure": Kind.EXPOSURE}
    return [(str(u), str(i), t * 1000, kinds[e], impression(one)) for u, i, t, e, one in rows]


@settings(max_examples=25)
@given(st.lists(EVENTS, min_size=1, max_size=20))
def test_every_format_holds_the_same_events_in_the_order_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    rows += rows[:1]  # identical rows are events each
    for name in FORMATS:
        for scheme in ("log", "alipay"):
            assert read(f"{scheme}:{save(folder / name, rows)}") == expected(rows), name


@pytest.mark.parametrize("name", FORMATS)
def test_integer_identifiers_are_the_same_as_their_text(tmp_path: Path, name: str) -> None:
    rows = [(7, -3, NOW + 5, "click", 12), (10**18, 0, NOW + 6, "exposure", None)]
    assert read(f"log:{save(tmp_path / name, rows)}") == expected(rows)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("spelling", [*SPELLINGS, "", "0"])
def test_an_impression_of_no_value_is_none_however_it_is_written(tmp_path: Path, name: str, spelling: str) -> None:
    rows = [("u", "i", NOW + 5, "click", spelling), ("u", "j", NOW + 6, "click", "7")]
    assert [row[4] for row in read(f"log:{save(tmp_path / name, rows)}")] == [0, 7]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("column", [0, 1])
def test_a_user_or_item_of_no_value_is_refused(tmp_path: Path, name: str, spelling: str, column: int) -> None:
    bad = ["u", "i", NOW + 5, "click", "7"]
    bad[column] = spelling
    rows, errors = skipped(f"log:{save(tmp_path / name, [tuple(bad), ('u', 'i', NOW + 6, 'click', '7')])}")
    assert [row[2] for row in rows] == [(NOW + 6) * 1000]
    assert dict(errors.counts) == {f"{COLUMNS[column]} is a placeholder for no value": 1}


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_integers_that_mean_no_value_are_none_as_impression_and_refused_as_user(tmp_path: Path, name: str) -> None:
    rows = [(-1, 2, NOW + 5, "click", 3), (4, 2, NOW + 6, "click", -1), (0, 2, NOW + 7, "click", 0)]
    found, errors = skipped(f"log:{save(tmp_path / name, rows)}")
    assert [(row[0], row[4]) for row in found] == [("4", 0), ("0", 0)]
    assert sum(errors.counts.values()) == 1


def test_seven_ways_to_write_no_impression_are_one_log(cases: Path) -> None:
    empty = read(f"log:{cases / 'sent_empty.csv'}")
    assert 0 in {row[4] for row in empty}
    assert read(f"log:{cases / 'sent_minus1.csv'}") == empty
    for name in ("zero", "null", "nan", "none", "bn", "space"):
        assert read(f"log:{cases / f'imp_{name}.csv'}") == read(f"log:{cases / 'imp_empty.csv'}"), name


@pytest.mark.parametrize("name", FORMATS)
def test_seconds_milliseconds_and_iso_are_the_same_moment(tmp_path: Path, name: str) -> None:
    moment = datetime(2023, 5, 18, 7, 0, 3, tzinfo=UTC)
    seconds = int(moment.timestamp())
    for n, time in enumerate((seconds, seconds * 1000, moment.isoformat(), "2023-05-18 07:00:03", str(seconds))):
        path = save(tmp_path / f"{n}{name}", [("u", "i", time, "click", None)])
        assert read(f"log:{path}") == [("u", "i", seconds * 1000, Kind.CLICK, 0)]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "+02:00"])
def test_timestamps_of_parquet_are_read_in_any_unit_and_zone(tmp_path: Path, unit: str, zone: str | None) -> None:
    second = 1_684_393_203
    times = pa.array([second * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit], None], pa.timestamp(unit, zone))
    table = pa.table({"user": ["u", "v"], "item": ["i", "i"], "timestamp": times, "event": ["click", "click"]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows, refusals = skipped(f"log:{tmp_path / 'a.parquet'}")
    assert rows == [("u", "i", second * 1000, Kind.CLICK, 0)]
    assert "row 2: time is missing" in refusals.first[0]


def test_dictionaries_and_large_strings_of_parquet_are_text_too(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user": pa.array(["u", "v"]).dictionary_encode(),
            "item": pa.array(["i", "j"], pa.large_string()),
            "timestamp": pa.array([NOW + 1, NOW + 2], pa.uint64()),
            "event": pa.array(["click", "exposure"]).dictionary_encode(),
            "impression": pa.array(["a", None]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(f"log:{tmp_path / 'a.parquet'}") == expected(
        [("u", "i", NOW + 1, "click", "a"), ("v", "j", NOW + 2, "exposure", None)]
    )


def test_columns_may_stand_in_any_order_and_others_are_passed_over(tmp_path: Path) -> None:
    columns = ("price", "Event", " TIMESTAMP ", "item", "user")
    for name in FORMATS:
        path = save(tmp_path / name, [(9.5, "click", NOW + 3, "i", "u")], columns)
        assert read(f"log:{path}") == [("u", "i", (NOW + 3) * 1000, Kind.CLICK, 0)]


@pytest.mark.parametrize("name", FORMATS)
def test_a_column_that_occurs_twice_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, [("u", "i", NOW + 3, "click", "v")], ("user", "item", "timestamp", "event", "User"))
    with pytest.raises(SourceError, match=f"{name}.* wrong columns.*user occurs twice"):
        read(f"log:{path}")


@pytest.mark.parametrize("name", FORMATS)
def test_the_case_of_a_file_s_name_makes_no_difference(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, [("u", "i", NOW + 3, "click", None)]).rename(tmp_path / name.upper())
    assert read(f"log:{path}") == [("u", "i", (NOW + 3) * 1000, Kind.CLICK, 0)]


def test_a_byte_order_mark_before_json_is_passed_over(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", f'\ufeff{{"user": "u", "item": "i", "timestamp": {NOW + 3}, "event": "click"}}\n'
    )
    assert read(f"log:{path}") == [("u", "i", (NOW + 3) * 1000, Kind.CLICK, 0)]


def test_a_byte_order_mark_and_quotes_are_understood(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\ufeff" + HEADER + f'"a, ""b""",i,{NOW + 3},click\n')
    assert read(f"log:{path}") == [('a, "b"', "i", (NOW + 3) * 1000, Kind.CLICK, 0)]


@pytest.mark.parametrize("name", FORMATS)
def test_finer_times_decide_the_order_in_every_format(tmp_path: Path, name: str) -> None:
    rows = [("u", f"i{n}", f"2020-11-17T15:21:34.47100{n}", "click", None) for n in (9, 5, 1)]
    path = save(tmp_path / name, rows)
    batch = next(iter(parse(f"log:{path}").read("logged", RowErrors())))
    assert batch["ns"].to_pylist() == [9000, 5000, 1000]


def test_values_of_any_type_in_json_are_names_or_refused_one_by_one(tmp_path: Path) -> None:
    users = ["a", 1, 2.0, 1.5, True, None, [1], [1, "x"], {"b": 2}, float("nan"), 2**60, 10**30, "\ud800", "z"]
    events = [{"user": user, "item": n, "timestamp": NOW + n, "event": "click"} for n, user in enumerate(users)]
    events += [{"user": "t", "item": 0, "timestamp": time, "event": "click"} for time in ([NOW], {}, True, "x")]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(event) + "\n" for event in events))
    found, errors = skipped(f"log:{path}")
    assert [row[0] for row in found] == ["a", "1", "2", str(2**60), str(10**30), "z"]
    assert [int(text.split("line ")[1].split(":")[0]) for text in errors.first] == [
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        13,
        *range(15, 19),
    ]


def test_a_number_too_large_for_any_arithmetic_is_a_time_beyond_the_years(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"user": 1, "item": 1, "timestamp": 1{"0" * 400}, "event": "click"}}\n')
    with pytest.raises(RowError, match="line 1: time is beyond the year 9999"):
        read(f"log:{path}")


def test_dates_are_times_in_parquet_as_in_text(tmp_path: Path) -> None:
    for type_ in (pa.date32(), pa.date64()):
        days = pa.array([date(2023, 5, 18), None], type_)
        pq.write_table(
            pa.table({"user": ["u"] * 2, "item": ["i"] * 2, "timestamp": days, "event": ["click"] * 2}),
            tmp_path / "a.parquet",
        )
        rows, refusals = skipped(f"log:{tmp_path / 'a.parquet'}")
        assert rows == read(f"log:{save(tmp_path / 'a.csv', [('u', 'i', '2023-05-18', 'click', None)])}")
        assert "row 2: time is missing" in refusals.first[0]


def test_a_column_of_times_is_no_user(tmp_path: Path) -> None:
    times = pa.array([1], pa.timestamp("ns"))
    table = pa.table({"user": times, "item": ["i"], "timestamp": [NOW], "event": ["click"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet: wrong columns: user, the user, is a column of times"):
        skipped(f"log:{tmp_path / 'a.parquet'}")


BAD: dict[str, tuple[Any, ...]] = {
    "time is not a finite number": ("u", "i", float("nan"), "click", None),
    "time is negative": ("u", "i", -5, "click", None),
    "time is neither a number": ("u", "i", "then", "click", None),
    "unknown event kind": ("u", "i", NOW + 3, "klick", None),
    "user is empty": ("", "i", NOW + 3, "click", None),
    "item is empty": ("u", "", NOW + 3, "click", None),
    "item has a NUL": ("u", "i\0", NOW + 3, "click", None),
    "user of more than 256 bytes": ("u" * 257, "i", NOW + 3, "click", None),
}


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("name", FORMATS)
def test_a_bad_row_is_told_with_file_line_and_reason(tmp_path: Path, name: str, reason: str) -> None:
    good = ("u", "i", str(NOW), "click", None)
    bad = tuple(value if value is None else str(value) for value in BAD[reason])  # a Parquet column has one type
    path = save(tmp_path / name, [good, bad, good])
    place = "row 2" if name.endswith("parquet") else "line 2" if "json" in name else "line 3"
    with pytest.raises(RowError, match=f"{path.name}, {place}: {reason}"):
        read(f"log:{path}")
    rows, refusals = skipped(f"log:{path}")
    assert len(rows) == 2
    assert refusals.total == 1


def test_numbers_that_are_none_are_refused_in_parquet_as_in_text(tmp_path: Path) -> None:
    for reason in ("time is not a finite number", "time is negative"):
        path = save(tmp_path / "a.parquet", [("u", "i", NOW + 0.0, "click", None), tuple(BAD[reason])])
        with pytest.raises(RowError, match=f"row 2: {reason}"):
            read(f"log:{path}")


@pytest.mark.parametrize("value", ["null", "true", "[]", '{"a": 1}', "1.5"])
def test_a_user_of_json_is_a_string_or_an_integer(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"user": {value}, "item": 1, "timestamp": {NOW}, "event": "click"}}\n')
    with pytest.raises(RowError, match="line 1: user is neither a string nor an integer"):
        read(f"log:{path}")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "who,what\n1,2\n", "wrong columns: there is no user, item, timestamp, event among 'who,what'"),
        ("a.csv", HEADER + "1,2,3\n", "line 2: wrong columns .3 instead of 4"),
        ("a.csv", HEADER + '1,"2,3,click\n', "line 2: not CSV"),
        ("a.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("a.jsonl", "{\n", "line 1: not JSON"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1: not JSON"),
        ("a.jsonl", '{"user": 1}\n', "line 1: wrong columns .there is no item, timestamp, event"),
        ("a.parquet", "user,item", "is not Parquet"),
        ("a.parquet", "", "is empty"),
        ("a.txt", "x", "wrong columns: there is no user, item, timestamp, event among 'x'"),
    ],
)
def test_a_file_of_another_shape_says_so(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        read(f"log:{write(tmp_path / name, text)}")


def test_parquet_without_rows_with_other_columns_cut_or_with_bytes_for_text_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"user": ["u"], "item": ["i"], "timestamp": [NOW], "event": ["click"]})
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(SourceError, match="is empty"):
        read(f"log:{path}")
    pq.write_table(table.drop_columns("event"), path)
    with pytest.raises(SourceError, match="there is no event among 'user,item,timestamp'"):
        read(f"log:{path}")
    latin = pa.array([b"caf\xe9"]).cast(pa.string(), safe=False)
    pq.write_table(table.set_column(0, "user", latin), path)
    with pytest.raises(SourceError, match=r"near row 1: .*UTF8"):
        read(f"log:{path}")
    pq.write_table(table, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="is not Parquet"):
        read(f"log:{path}")


@given(st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text) | st.integers())
def test_an_impression_is_a_number_that_devices_take(name: str | int) -> None:
    none = str(name).strip().lower() in NO_IMPRESSION
    assert impression(name) == 0 if none else 0 < impression(name) < IMPRESSIONS


def test_impressions_that_are_numbers_keep_them() -> None:
    assert [impression(value) for value in (None, "", 5, "5", 10**15)] == [0, 0, 5, 5, 10**15]
    assert impression("a") != impression("b")
    assert impression(2**60) != impression(2**60 + 1)


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.csv", "b.csv", "a.jsonl", "a.parquet", "a.csv.gz"):
        path = folder / name
        path.write_bytes(HEADER.encode() + data if name == "b.csv" else data)
        for on_error in ("stop", "skip"):
            try:
                read(f"log:{path}", None, RowErrors(on_error))
            except SourceError as error:
                assert name in str(error)  # noqa: PT017 - both ends are right
