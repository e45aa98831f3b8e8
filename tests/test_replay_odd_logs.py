"""Logs that are valid and odd: formats without a known name, encodings, words for no value, times of a kind."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.errors import RowErrors, SourceError
from replay.prepare.log_account import Finding
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.columns import DOUBTFUL, impression
from replay.sources.log_map import LogMap
from replay.sources.source import parse
from replay.suggest.sample import sample
from tests.support.logs import HEADER, write

T = 1_684_393_203  # s


def findings(folder: Path, rows: list[str], log_map: LogMap | None = None) -> dict[str, Finding]:
    path = write(folder / "log.csv", HEADER + "".join(f"{row}\n" for row in rows))
    plan = prepare(parse(f"log:{path}", log_map), Options(log_map=log_map), folder / "plan")
    return {finding.name: finding for finding in plan.findings}


def some(users: int = 30, step: int = 77) -> list[str]:
    return [f"u{n},i{n},{T + step * n},{'click' if n % 2 else 'exposure'}" for n in range(users)]


@pytest.mark.parametrize("word", DOUBTFUL)
def test_a_name_that_may_mean_no_value_is_named_with_its_first_line_and_as_impression_is_none(word: str) -> None:
    assert impression(word) == impression(word.upper()) == 0


def test_names_that_may_mean_no_value_are_counted_and_refused_if_the_map_says_so(tmp_path: Path) -> None:
    rows = [*some(), f"N/A,i1,{T},click", f"guest,i2,{T},click", f"N/A,i3,{T + 9},click", f"u,unknown,{T},click"]
    found = findings(tmp_path, rows)
    assert (found["placeholder-users"].count, found["placeholder-items"].count) == (3, 1)
    assert found["placeholder-users"].first[0] == f"{tmp_path / 'log.csv'}, line 32: 'N/A', 2 events"
    errors = RowErrors("skip")
    list(parse(f"log:{tmp_path / 'log.csv'}", LogMap(null=("n/a", "guest", "unknown"))).read("logged", errors))
    assert errors.total == 4
    assert not {name for name in findings(tmp_path, some()) if name.startswith("placeholder")}


def test_a_user_0_is_a_user_unless_most_events_are_its(tmp_path: Path) -> None:
    assert "placeholder-users" not in findings(tmp_path, [*some(), f"0,i,{T},click"])
    many = [f"0,i{n},{T + n},click" for n in range(50)]
    assert findings(tmp_path, [*some(), *many])["placeholder-users"].count == 50


def test_times_in_the_future_and_times_without_hours_are_named(tmp_path: Path) -> None:
    assert not {"future-times", "coarse-times"} & findings(tmp_path, some()).keys()
    late = LogMap(time_unit="s")
    rows = [f"u{n},i{n},{T * 3 + n},click" for n in range(3)]
    assert findings(tmp_path, rows, late)["future-times"].count == 3
    days = [f"u,i{n},2023-05-{n + 1:02},click" for n in range(12)]
    assert "dates without hours" in findings(tmp_path, days)["coarse-times"].sentence
    assert (
        "have the same time:" in findings(tmp_path, [f"u,i{n},{T},click" for n in range(12)])["coarse-times"].sentence
    )


def test_rows_that_a_quote_swallows_are_named(tmp_path: Path) -> None:
    rows = [f"u,a,{T},click", f'"u,b,{T},click', f"u,c,{T},click", f'u,d,{T},click",e,{T},click', f"u,f,{T},click"]
    quoted = findings(tmp_path, rows)["quoted-rows"]
    assert quoted.first == (f"{tmp_path / 'log.csv'}, line 4", f"{tmp_path / 'log.csv'}, line 5")
    assert "quoted-rows" not in findings(tmp_path, [f'"u\n1",a,{T},click'])


def test_parts_without_rows_are_named_and_passed_over_unless_all_are(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    table = pa.table({"user": ["u"], "item": ["i"], "timestamp": [T], "event": ["click"]})
    write(folder / "a.csv", "")
    write(folder / "b.csv", HEADER)
    folder.joinpath("c.csv.gz").write_bytes(gzip.compress(b"\n"))
    pq.write_table(table[:0], folder / "d.parquet")
    with pytest.raises(SourceError, match="no row could be read"):
        prepare(parse(f"log:{folder}"), Options(), tmp_path / "plan")
    (folder / "b.csv").unlink()
    with pytest.raises(SourceError, match=r"d\.parquet is empty"):
        list(parse(f"log:{folder}").read("logged", RowErrors()))
    pq.write_table(table, folder / "e.parquet")
    plan = prepare(parse(f"log:{folder}"), Options(), tmp_path / "plan")
    (empty,) = (finding for finding in plan.findings if finding.name == "empty-files")
    assert (plan.contents.rows, empty.count) == (1, 3)


@pytest.mark.parametrize("name", ["1.23457E+17", "1e+20", "-3,1E+05"])
def test_names_that_a_spreadsheet_has_rounded_are_named(tmp_path: Path, name: str) -> None:
    rows = [f'"{name}",i,{T},click', f"u,a+b,{T},click"]
    found = findings(tmp_path, rows)
    assert found["rounded-users"].first == (f"'{name}'",)
    assert "rounded-items" not in found


def test_seconds_since_2001_are_named(tmp_path: Path) -> None:
    since_2001 = [f"u,i{n},{T - 978_307_200 + n},click" for n in range(3)]
    assert findings(tmp_path, since_2001)["early-times"].count == 3
    assert "early-times" not in findings(tmp_path, some())


def test_a_file_of_another_name_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    event = {"user": "u", "item": "i", "timestamp": T, "event": "click"}
    pq.write_table(pa.Table.from_pylist([event]), tmp_path / "part-0")
    write(tmp_path / "part-1", "\ufeff" + json.dumps(event))
    write(tmp_path / "part-2", HEADER + f"u,i,{T},click\n")
    batches = parse(f"log:{tmp_path}").read("logged", RowErrors())
    assert [batch.num_rows for batch in batches] == [1, 1, 1]
    assert {tuple(sample(path, LogMap()).columns) for path in tmp_path.iterdir()} == {tuple(event)}


def read(path: Path, log_map: LogMap) -> list[tuple[object, ...]]:
    batches = parse(f"log:{path}", log_map).read("logged", RowErrors())
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def test_an_impression_is_the_same_with_blanks_and_a_point_0(tmp_path: Path) -> None:
    rows = "".join(f"u,i{n},{T},click,{text}\n" for n, text in enumerate(["7", "7.0", " 7", "7.00 ", "0.0"]))
    path = write(tmp_path / "a.csv", f"{HEADER.strip()},impression\n{rows}")
    assert [row[4] for row in read(path, LogMap())] == [7, 7, 7, 7, 0]


def test_a_decimal_comma_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"user;item;timestamp;rating\nu;i;{T};4,5\n")
    with pytest.raises(SourceError, match=r"rating is no number \('4,5': a decimal comma"):
        read(path, LogMap(columns={"rating": "rating"}))
    path = write(tmp_path / "a.csv", "user;item;timestamp;event\nu;i;45000,5;click\n")
    with pytest.raises(SourceError, match="a decimal comma"):
        read(path, LogMap(time_unit="excel"))


def test_one_column_is_not_two(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + f"u,i,{T},click\n")
    for columns in ({"item": "user"}, {"user": "item"}, {"item": "timestamp"}):
        with pytest.raises(SourceError, match="are one column"):
            read(path, LogMap(columns=columns))  # type: ignore[arg-type]
    assert len(read(path, LogMap(columns={"impression": "user"}))) == 1


def test_truth_values_are_words_for_events(tmp_path: Path) -> None:
    log_map = LogMap(events={"true": "click", "false": "exposure"})
    table = {"user": ["u"] * 2, "item": ["i", "j"], "timestamp": [T] * 2, "event": [True, False]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    write(tmp_path / "b.jsonl", "\n".join(json.dumps(row) for row in pa.table(table).to_pylist()))
    write(tmp_path / "c.csv", HEADER + f"u,i,{T},true\nu,j,{T},false\n")
    found = [[row[:5] for row in read(path, log_map)] for path in sorted(tmp_path.iterdir())]
    assert found[0] == found[1] == found[2] != []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_the_mark_at_the_begin_decides_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes((HEADER + f"é,i,{T},click\n").encode(encoding))
    (batch,) = parse(f"log:{path}").read("logged", RowErrors())
    assert batch["user"].to_pylist() == ["é"]
    path.write_bytes((HEADER + f"é,i,{T},click\n").encode(f"{encoding}-le"))
    with pytest.raises(SourceError, match=r"is not a text file: .*--encoding"):
        list(parse(f"log:{path}").read("logged", RowErrors()))


def test_nothing_is_suggested_for_a_file_without_rows(tmp_path: Path) -> None:
    for text, sentence in (("\n\n", "is empty"), (HEADER, "has no row below its header")):
        with pytest.raises(SourceError, match=sentence):
            sample(write(tmp_path / "a.csv", text), LogMap())


def test_values_beyond_the_scale_of_the_default_threshold_are_named(tmp_path: Path) -> None:
    rows = [f"u{n},i{n},{T + n},{value}" for n, value in enumerate([*range(-1, 11), "0.5", "five"])]
    text = "user,item,timestamp,stars\n" + "".join(f"{row}\n" for row in rows)
    path = write(tmp_path / "log.csv", text)

    def found(column: Literal["rating", "click"], **fields: Any) -> dict[str, int]:
        log_map = LogMap(columns={column: "stars"}, **fields)
        plan = prepare(parse(f"log:{path}", log_map), Options(log_map=log_map, on_error="skip"), tmp_path / "plan")
        return {finding.name: finding.count for finding in plan.findings if finding.name != "no-exposures"}

    assert found("rating") == {"rating-scale": 5, "missing-ratings": 1}
    assert found("rating", click_from=8) == {"missing-ratings": 1}
    assert found("rating", click_from=8, null=["-1"]) == {}
    assert found("click") == {"click-scale": 9}
    assert found("click", click_from=5) == {}
