"""Logs as spreadsheets, warehouses and notebooks export them: lists as text, short floats, labels, rounded numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.errors import RowErrors, SourceError
from replay.sources.columns import impression
from replay.sources.log_map import LogMap, Slate
from replay.sources.source import parse
from streams.records import Kind
from tests.support.logs import HEADER, rows_of, write

T = 1_684_393_203  # s
SLATE = LogMap(columns={"user": "user", "item": "item", "timestamp": "timestamp"}, slate=Slate(column="shown"))
LISTS = {  # spellings of the items a, b c
    "json": '["a", "b c"]',
    "json with numbers": '["a", "b c", null]',
    "python": "['a', 'b c']",
    "numpy": "['a' 'b c']",
    "postgres": '{a,"b c"}',
    "escaped": r"['a', 'b\ c']",
}


def rows(path: Path, log_map: LogMap, errors: RowErrors | None = None) -> list[tuple[str, Kind]]:
    batches = parse(f"log:{path}", log_map).read(
        "rated" if "rating" in log_map.columns else "logged", errors or RowErrors()
    )
    return [row[1:4:2] for batch in batches for row in rows_of(batch)]


def parquet(folder: Path, **columns: object) -> Path:
    usual = {"user": ["u"], "item": ["a"], "timestamp": [T], "event": ["click"]}
    pq.write_table(pa.table(usual | columns), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize("spelling", LISTS)
def test_a_list_in_brackets_is_a_slate_in_every_format(tmp_path: Path, spelling: str) -> None:
    text = LISTS[spelling]
    quoted = text.replace('"', '""')
    write(tmp_path / "a.csv", f'user,item,timestamp,shown\nu,a,{T},"{quoted}"\n')
    event = {"user": "u", "item": "a", "timestamp": T, "shown": text}
    write(tmp_path / "a.jsonl", json.dumps(event) + "\n" + json.dumps(event | {"user": ["v"]}))
    parquet(tmp_path, shown=[text])
    for name in ("a.csv", "a.parquet", "a.jsonl"):  # the other line makes the reader of JSON decode lines one by one
        assert rows(tmp_path / name, SLATE, RowErrors("skip")) == [("a", Kind.CLICK), ("b c", Kind.EXPOSURE)]


def test_a_slate_of_arrays_of_one_size_is_read_and_one_of_objects_is_refused(tmp_path: Path) -> None:
    fixed = parquet(tmp_path, shown=pa.array([["a", "b"]], pa.list_(pa.string(), 2)))
    assert rows(fixed, SLATE) == [("a", Kind.CLICK), ("b", Kind.EXPOSURE)]
    for column in ([[{"id": "a"}]], [[["a"]]], [{"id": "a"}]):
        with pytest.raises(SourceError, match=r"shown, the slate, is .*, not a list of names"):
            rows(parquet(tmp_path, shown=column), SLATE)


@pytest.mark.parametrize("column", ["user", "item", "impression", "timestamp"])
@pytest.mark.parametrize("kind", [pa.float16(), pa.float32()])
def test_a_short_float_that_may_be_rounded_is_refused(tmp_path: Path, column: str, kind: pa.DataType) -> None:
    large = pa.array([2.0**24 if kind == pa.float32() else 2.0**11]).cast(kind)
    says = "which round times to minutes: --time-unit" if column == "timestamp" else "row 1: .* too large to be exact"
    with pytest.raises(SourceError, match=says):
        rows(parquet(tmp_path, **{column: large}), LogMap())
    unit = LogMap(time_unit="d" if column == "timestamp" else None)
    assert rows(parquet(tmp_path, **{column: pa.array([7.0]).cast(kind)}), unit)


@pytest.mark.parametrize("column", ["rating", "click"])
def test_a_rating_that_means_no_value_or_no_number_is_refused_and_no_exposure(tmp_path: Path, column: str) -> None:
    values = ["5", "0", "0.0", "N/A", "inf", "-1", "yes"]
    path = write(tmp_path / "a.csv", "user,item,timestamp,x\n" + "".join(f"u,i,{T},{value}\n" for value in values))
    errors = RowErrors("skip")
    log_map = LogMap(columns={column: "x"}, null=("0", "n/a"), click_from=1)  # type: ignore[dict-item]
    assert [kind for _, kind in rows(path, log_map, errors)] == [Kind.CLICK, Kind.EXPOSURE, Kind.CLICK]
    assert errors.counts == {f"{column} is a placeholder for no value": 3, f"{column} is no number": 1}


@pytest.mark.parametrize(("yes", "no"), [("t", "f"), ("Yes", "No"), ("Y", "N"), ("TRUE", "FALSE")])
def test_words_for_truth_are_clicks_and_exposures(tmp_path: Path, yes: str, no: str) -> None:
    path = write(tmp_path / "a.csv", f"user,item,timestamp,x\nu,i,{T},{yes}\nu,j,{T},{no}\n")
    assert rows(path, LogMap(columns={"click": "x"})) == [("i", Kind.CLICK), ("j", Kind.EXPOSURE)]


def test_a_time_that_a_spreadsheet_has_rounded_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + f"u,i,1.68439E+12,click\nu,i,{T / 1e9}e9,click\nu,i,{T * 1e9!r},click\n")
    errors = RowErrors("skip")
    assert len(rows(path, LogMap(), errors)) == 2
    assert "line 2: time is rounded ('1.68439E+12': by a spreadsheet?" in errors.first[0]


def test_an_impression_that_a_spreadsheet_has_rounded_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"{HEADER.strip()},impression\nu,i,{T},click,1.23457E+17\nu,i,{T},click,a\n")
    errors = RowErrors("skip")
    assert len(rows(path, LogMap(), errors)) == 1
    assert "line 2: impression is rounded ('1.23457E+17'" in errors.first[0]


@pytest.mark.parametrize("word", ["-1.0", "#NAME?", "(not set)"])
def test_further_words_for_no_value_are_no_impression(word: str) -> None:
    assert impression(word) == 0
