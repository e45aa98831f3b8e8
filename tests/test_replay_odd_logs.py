"""Logs that are valid and odd: formats without a known name, encodings, words for no value, times of a kind."""

from __future__ import annotations

import json
from pathlib import Path

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
        "one and the same time" in findings(tmp_path, [f"u,i{n},{T},click" for n in range(12)])["coarse-times"].sentence
    )


def test_a_file_of_another_name_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    event = {"user": "u", "item": "i", "timestamp": T, "event": "click"}
    pq.write_table(pa.Table.from_pylist([event]), tmp_path / "part-0")
    write(tmp_path / "part-1", "\ufeff" + json.dumps(event))
    write(tmp_path / "part-2", HEADER + f"u,i,{T},click\n")
    batches = parse(f"log:{tmp_path}").read("logged", RowErrors())
    assert [batch.num_rows for batch in batches] == [1, 1, 1]
    assert {tuple(sample(path, LogMap()).columns) for path in tmp_path.iterdir()} == {tuple(event)}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_the_mark_at_the_begin_decides_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes((HEADER + f"é,i,{T},click\n").encode(encoding))
    (batch,) = parse(f"log:{path}").read("logged", RowErrors())
    assert batch["user"].to_pylist() == ["é"]
    path.write_bytes((HEADER + f"é,i,{T},click\n").encode(f"{encoding}-le"))
    with pytest.raises(SourceError, match=r"is no text: .*--encoding"):
        list(parse(f"log:{path}").read("logged", RowErrors()))


def test_nothing_is_suggested_for_a_file_without_rows(tmp_path: Path) -> None:
    for text, sentence in (("\n\n", "is empty"), (HEADER, "has no row below its header")):
        with pytest.raises(SourceError, match=sentence):
            sample(write(tmp_path / "a.csv", text), LogMap())
