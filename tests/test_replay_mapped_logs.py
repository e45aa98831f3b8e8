"""Logs as they come: other names, words, separators, headers and encodings, read with a map."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import RowErrors, SourceError
from replay.sources.columns import NO_VALUE
from replay.sources.log_map import LogMap
from replay.sources.schema import Row
from replay.sources.source import parse
from replay.values.events import LEFT_OUT
from streams.records import Kind
from streams.settings import Exposures
from tests.support.logs import HEADER, rows_of, write

T = 1_684_393_203  # s
CLICK, EXPOSURE = Kind.CLICK, Kind.EXPOSURE

CELLS = st.text(st.sampled_from("ab ,;\t|\"'\r\n\0é\u3000#"), max_size=6)
NAMES = CELLS.filter(lambda text: "\0" not in text and text.strip().lower() not in NO_VALUE)


def mapped(path: Path, log_map: LogMap, errors: RowErrors | None = None, policy: Exposures | None = None) -> list[Row]:
    source = parse(f"log:{path}", log_map)
    batches = source.read(policy or source.policies[0], errors or RowErrors())
    return [row for batch in batches for row in rows_of(batch)]


@settings(max_examples=150)
@given(
    st.lists(st.tuples(NAMES, CELLS, NAMES), min_size=1, max_size=8),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
)
def test_any_table_that_python_writes_is_read_as_itself(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    separator: str,
    end: str,
    quoting: int,
    header: bool,
) -> None:
    if quoting != csv.QUOTE_ALL and end == "\n":  # Python's writer does not quote another line end, nor read it back
        rows = [
            (user.replace("\r", "x"), cell.replace("\r", "x"), item.replace("\r", "x")) for user, cell, item in rows
        ]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting)
    if header:
        writer.writerow(["who", "note", "what", "when"])
    writer.writerows([user, cell, item, T + n] for n, (user, cell, item) in enumerate(rows))
    path = write(tmp_path_factory.mktemp("table") / "a.csv", text.getvalue())
    by_name = (
        {"user": "who", "item": "what", "timestamp": "when"} if header else {"user": "1", "item": "3", "timestamp": "4"}
    )
    found = mapped(path, LogMap(columns=by_name, event="click", separator=separator))  # type: ignore[arg-type]
    assert found == [(user, item, (T + n) * 1000, CLICK, 0) for n, (user, _cell, item) in enumerate(rows)]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
def test_the_separator_is_found_in_the_first_lines(tmp_path: Path, separator: str) -> None:
    rows = [["user", "item", "timestamp", "event", "list"], *(["u", "i", str(T), "click", "a b"]) * 1]
    table = [rows[0], ["u,1" if separator != "," else "u1", "i", str(T), "click", "a b"]]
    path = write(tmp_path / "a.txt", "".join(separator.join(row) + "\n" for row in table))
    assert [row[1:4] for row in mapped(path, LogMap())] == [("i", T * 1000, CLICK)]


def test_columns_are_found_by_name_and_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"Buyer ,7,when,event\nu,i,{T},click\n")
    for user, item in (("buyer", "7"), ("1", "2"), ("Buyer ", "2")):
        found = mapped(path, LogMap(columns={"user": user, "item": item, "timestamp": "when"}))
        assert found == [("u", "i", T * 1000, CLICK, 0)]
    with pytest.raises(SourceError, match=r"there is no seller among .*--columns.*--suggest"):
        mapped(path, LogMap(columns={"user": "seller", "item": "7", "timestamp": "when"}))
    with pytest.raises(SourceError, match="there is no 5 among"):
        mapped(path, LogMap(columns={"user": "5", "item": "7", "timestamp": "when"}))


def test_a_header_is_what_the_map_says_and_else_there_unless_all_columns_are_numbers(tmp_path: Path) -> None:
    numbers = LogMap(columns={"user": "1", "item": "2", "timestamp": "3", "event": "4"})
    path = write(tmp_path / "a.csv", HEADER + f"u,i,{T},click\n")
    assert len(mapped(path, LogMap(columns=numbers.columns, header=True))) == 1
    errors = RowErrors("skip")
    assert len(mapped(path, numbers, errors)) == 1
    assert "line 1: unknown event kind" in errors.first[0]


def test_words_for_events_are_mapped_and_ignored_ones_are_counted(tmp_path: Path) -> None:
    words = ("view", "buy", "refund", "click", "odd")
    path = write(tmp_path / "a.csv", HEADER + "".join(f"u,i{n},{T},{word}\n" for n, word in enumerate(words)))
    errors = RowErrors("skip")
    found = mapped(path, LogMap(events={"view": "exposure", "buy": "click", "refund": "ignore"}), errors)
    assert [(row[1], row[3]) for row in found] == [("i0", EXPOSURE), ("i1", CLICK), ("i3", CLICK)]
    assert errors.left_out == {LEFT_OUT: 1}
    assert errors.first == [f"{path}, line 6: unknown event kind ('odd')"]


def test_a_number_decides_what_a_click_is(tmp_path: Path) -> None:
    values = ["5", "4.0", "3", "", "x"]
    path = write(tmp_path / "a.csv", "user,item,timestamp,stars\n" + "".join(f"u,i,{T},{v}\n" for v in values))
    errors = RowErrors("skip")
    rated = LogMap(columns={"rating": "stars"})
    assert [row[3] for row in mapped(path, rated, errors)] == [CLICK, CLICK, EXPOSURE]
    assert errors.counts == {"rating is no number": 2}
    for policy in ("simulated", "logged"):
        assert {row[3] for row in mapped(path, rated, RowErrors("skip"), policy)} == {CLICK}
    watched = LogMap(columns={"click": "stars"}, click_from=5)
    assert [row[3] for row in mapped(path, watched, RowErrors("skip"))] == [CLICK, EXPOSURE, EXPOSURE]


def test_truth_values_are_clicks_and_exposures(tmp_path: Path) -> None:
    values = ["true", "False", "1", "0"]
    path = write(tmp_path / "a.csv", "user,item,timestamp,clicked\n" + "".join(f"u,i,{T},{v}\n" for v in values))
    found = mapped(path, LogMap(columns={"click": "clicked"}))
    assert [row[3] for row in found] == [CLICK, EXPOSURE, CLICK, EXPOSURE]


def test_further_spellings_of_no_value_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"user,item,timestamp,event,impression\n?,i,{T},click,1\nu,i,{T},click,n.a.\n")
    errors = RowErrors("skip")
    found = mapped(path, LogMap(null=("?", "N.A.")), errors)
    assert found == [("u", "i", T * 1000, CLICK, 0)]
    assert errors.counts == {"user is a placeholder for no value": 1}


def test_units_formats_and_zones_of_the_map_are_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + "u,i,18.05.2023 09:00:03,click\n")
    found = mapped(path, LogMap(time_format="%d.%m.%Y %H:%M:%S", tz="Europe/Copenhagen"))
    assert found == [("u", "i", T * 1000, CLICK, 0)]
    path = write(tmp_path / "a.csv", HEADER + "u,i,5,click\n")
    assert mapped(path, LogMap(time_unit="d"))[0][2] == 5 * 86_400_000


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "gb18030", "shift_jis", "utf-8-sig"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    name = "é" if encoding in ("latin-1", "cp1252", "utf-8-sig") else "日本"
    path = write(tmp_path / "a.csv", (HEADER + f"{name},i,{T},click\n").encode(encoding))
    assert mapped(path, LogMap(encoding=encoding)) == [(name, "i", T * 1000, CLICK, 0)]
    if encoding in ("utf-16", "utf-8-sig"):  # the mark says it
        assert mapped(path, LogMap())[0][0] == name


def test_bytes_outside_the_encoding_cost_their_row_alone(tmp_path: Path) -> None:
    data = HEADER.encode() + b"caf\xe9,i,%d,click\nu,i,%d,click\n" % (T, T)
    for encoding, codes in (("utf-8", data), ("cp1252", data.replace(b"\xe9", b"\x81"))):
        errors = RowErrors("skip")
        path = write(tmp_path / "a.csv", codes)
        assert [row[0] for row in mapped(path, LogMap(encoding=encoding), errors)] == ["u"]
        assert errors.first[0].startswith(f"{path}, line 2: not {encoding.upper()}")
        assert (encoding == "utf-8") == ("in another --encoding, such as cp1252?" in errors.first[0])
    path = write(tmp_path / "a.csv", b"user,item,timestamp,event,title\nu,i,%d,click,caf\xe9\n" % T)
    assert len(mapped(path, LogMap())) == 1  # a column that is passed over


def test_comments_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "# of 2023\n" + HEADER + f"#u,i,{T},click\nu,#i,{T},click\n")
    assert mapped(path, LogMap(comment="#")) == [("u", "#i", T * 1000, CLICK, 0)]


def test_what_is_refused_is_told_with_the_line_at_which_it_begins(tmp_path: Path) -> None:
    rows = f'u,i,{T},click,"two\nlines"\n\nu,i,{T},click\nu,i,then,click,x\n"u,i,{T},click,x\nv,i,{T},click,x\n'
    path = write(tmp_path / "a.csv", "user,item,timestamp,event,title\n" + rows)
    errors = RowErrors("skip")
    assert [row[0] for row in mapped(path, LogMap(), errors)] == ["u", "v"]
    assert [text.removeprefix(f"{path}, ").split(" (")[0] for text in errors.first] == [
        "line 5: wrong columns",
        "line 6: time is neither a number nor ISO 8601",
        "line 7: not CSV",
    ]
    with pytest.raises(SourceError, match="line 5: wrong columns"):
        mapped(path, LogMap())


def test_the_parts_of_a_folder_are_one_log_with_the_lines_of_each_file(tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path / f"part-{n}.csv.gz", HEADER + f"u{n},i,{T},click\nu{n},i,{T},klick\n")
    errors = RowErrors("skip")
    assert [row[0] for row in mapped(tmp_path, LogMap(), errors)] == ["u0", "u1", "u2"]
    assert [text.split(":")[0] for text in errors.first] == [f"{tmp_path}/part-{n}.csv.gz, line 3" for n in range(3)]
    assert [row[0] for row in mapped(tmp_path, LogMap(parts="*-1.csv*"), RowErrors("skip"))] == ["u1"]


def test_a_line_of_ten_megabytes_costs_itself_alone(tmp_path: Path) -> None:
    row = f"u,i,{T},click\n"
    path = write(tmp_path / "a.csv", HEADER + row + "x" * 10_000_000 + "\n" + row)
    errors = RowErrors("skip")
    assert len(mapped(path, LogMap(), errors)) == 2
    assert errors.first == [f"{path}, line 3: line of more than 1,000,000 bytes"]
    with pytest.raises(SourceError, match="line 1: not CSV"):
        mapped(write(tmp_path / "b.csv", "x" * 10_000_000), LogMap())


def test_a_map_goes_with_log_alone() -> None:
    with pytest.raises(SourceError, match="synthetic: only log: takes a map"):
        parse("synthetic", LogMap())
