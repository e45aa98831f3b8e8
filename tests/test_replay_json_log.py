"""JSON lines: whole blocks are read as their lines one by one, and lists in a line are slates and histories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import RowErrors, SourceError
from replay.sources.log_map import LogMap, Slate
from replay.sources.schema import Row
from replay.sources.source import parse
from replay.sources.text.json_log import _JsonLog
from replay.values.events import EventReader
from streams.records import Kind
from tests.support.logs import rows_of, write

T = 1_684_393_203  # s
CLICK, EXPOSURE, PAST = Kind.CLICK, Kind.EXPOSURE, Kind.PAST_CLICK

ODD = st.sampled_from([None, True, 1.5, 2.0, -1, 0, "", "-1", 2**63, 2**70, [1], {"user": 1}, "\ud800", "é", "user"])
NAMES = st.sampled_from(["a", "b", 7, "7"])
EVENTS = st.fixed_dictionaries(
    {
        "user": NAMES | ODD,
        "item": NAMES,
        "timestamp": st.sampled_from([T, str(T), T + 0.5, "2023-05-18T07:00:03", T * 10**9]) | ODD,
        "event": st.sampled_from(["click", "exposure", "odd"]),
    },
    optional={"impression": NAMES | ODD, "Impression": NAMES, "note": ODD, "User": NAMES},
)
PLAIN = st.fixed_dictionaries({"user": NAMES, "item": NAMES, "timestamp": st.just(T), "event": st.just("click")})
LINES = st.one_of(
    EVENTS.map(json.dumps), PLAIN.map(json.dumps), st.sampled_from(["{", "[1]", "7", '{"user": NaN}', " "])
)


def read(path: Path, log_map: LogMap, errors: RowErrors | None = None) -> list[Row]:
    source = parse(f"log:{path}", log_map)
    return [row for batch in source.read("logged", errors or RowErrors()) for row in rows_of(batch)]


@settings(max_examples=300)
@given(st.lists(LINES, min_size=1, max_size=4) | st.lists(PLAIN.map(json.dumps), min_size=1, max_size=4), st.booleans())
def test_a_block_is_read_as_its_lines_one_by_one(lines: list[str], nested: bool) -> None:
    if nested:
        lines = [f'{{"events": [{line}], "user": "outer"}}' for line in lines]
    log_map = LogMap(nested="events" if nested else None)
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    numbered = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    reader = EventReader(log_map)
    found = []
    for method in (lambda log: log.fast(numbered, data) or log.slow(numbered), lambda log: log.slow(numbered)):
        errors = RowErrors("skip", files=[Path("a.jsonl")])
        rows = []
        for table, problems in method(_JsonLog(Path("a.jsonl"), reader)):
            batch = reader.events(table, errors, problems)
            rows += [(*row, line) for row, line in zip(rows_of(batch), batch["line"].to_pylist(), strict=True)]
        found.append((rows, sorted(text.partition(" (")[0] for text in errors.first), errors.counts))
    assert found[0] == found[1]


def test_plain_lines_are_read_as_columns(tmp_path: Path) -> None:
    lines = [json.dumps({"user": "u", "item": 1, "timestamp": T, "event": "click"})] * 3
    for more in ("", "{\n", "\n"):  # a line that is none is no reason to read the others one by one
        data = "\n".join([*lines, more]).encode()
        numbered = [(n, line) for n, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
        ((table, problems),) = _JsonLog(tmp_path, EventReader()).fast(numbered, data)
        assert (table.rows.num_rows, len(problems)) == (3, "{" in more)


@pytest.mark.parametrize("listed", [True, False])
def test_lists_in_json_lines_are_slates_and_histories(tmp_path: Path, listed: bool) -> None:
    rows = [(1, T, ["N1-1", "N2-0"], ["N8", "N9"]), (2, T + 1, ["N3-0"], []), (1, T + 2, ["N2-1"], ["N8", "N9"])]
    lines = [
        {"uid": u, "t": t, "seen": s if listed else " ".join(s), "before": h if listed else " ".join(h)}
        for u, t, s, h in rows
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    slate = Slate(column="seen", click_suffix="-1", exposure_suffix="-0")
    found = read(path, LogMap(columns={"user": "uid", "timestamp": "t"}, slate=slate, history="before"))
    assert sorted(row[:4] for row in found) == [
        ("1", "N1", T * 1000, CLICK),
        ("1", "N2", T * 1000, EXPOSURE),
        ("1", "N2", (T + 2) * 1000, CLICK),
        ("1", "N8", T * 1000 - 2, PAST),
        ("1", "N9", T * 1000 - 1, PAST),
        ("2", "N3", (T + 1) * 1000, EXPOSURE),
    ]


def test_a_list_of_other_things_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = [{"user": "u", "timestamp": T, "seen": seen} for seen in (["a", 1], [{"id": 1}], 7, None)]
    path, errors = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines))), RowErrors("skip")
    found = read(path, LogMap(slate=Slate(column="seen"), event="exposure"), errors)
    assert [row[1] for row in found if row[3] == EXPOSURE] == ["a", "1", "7"]
    assert errors.counts == {"slate is no list of names": 1, "item is neither a string nor an integer": 1}


def test_a_line_that_is_too_long_is_refused_alone_and_the_encoding_is_that_of_the_map(tmp_path: Path) -> None:
    line = json.dumps({"user": "é", "item": 1, "timestamp": T, "event": "click"}, ensure_ascii=False)
    long = json.dumps({"user": "x" * 9_000_000})
    path, errors = write(tmp_path / "a.jsonl", f"{line}\n{long}\n{line}\n"), RowErrors("skip")
    assert len(read(path, LogMap(), errors)) == 2
    assert errors.first == [f"{path}, line 2: line of more than 1,000,000 bytes"]
    for encoding in ("latin-1", "utf-16"):
        path.write_bytes(f"{line}\n{line}".encode(encoding))
        found = read(path, LogMap(encoding="utf-8" if encoding == "utf-16" else encoding))
        assert [row[0] for row in found] == ["é", "é"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_field_that_a_line_has_twice_is_refused(tmp_path: Path, nested: bool) -> None:
    event = f'"item": "i", "timestamp": {T}, "event": "click"'
    lines = [f'{{"user": "u", {event}, "x": "user"}}', f'{{"user": "u", {event}, "user": "v"}}']
    if nested:
        lines = [
            f'{{"user": "u", "events": [{{{event}}}, {{{event}}}]}}',
            f'{{"user": "u", "events": [{{{event}, {event}}}]}}',
        ]
    path, errors = write(tmp_path / "a.jsonl", "\n".join(lines)), RowErrors("skip")
    found = read(path, LogMap(nested="events") if nested else LogMap(), errors)
    assert [row[0] for row in found] == ["u"] * (2 if nested else 1)
    assert f"line 2: wrong columns ({'item' if nested else 'user'} occurs twice" in errors.first[0]


@pytest.mark.parametrize("lines", ["[\n{}\n]", '[{"user": 1}]', '{\n"user": 1\n}', '{"user": 1},\n{"user": 2}'])
def test_an_array_instead_of_lines_is_refused_with_the_way_out(tmp_path: Path, lines: str) -> None:
    with pytest.raises(SourceError, match=r"line 1: not .*jq -c '\.\[\]' for an array"):
        read(write(tmp_path / "a.json", lines), LogMap())
