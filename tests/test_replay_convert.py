"""`mc2sf data convert`: what is written is read back as the same events, and nothing is replaced unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.cli.main import app
from replay.convert import convert
from replay.errors import RowErrors, SourceError
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.schema import FINER, ROWS, Row
from replay.sources.source import parse
from streams.records import Kind
from tests.support.logs import batch, read

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
    lambda text: text.strip().lower() not in {"", "null", "nan", "none", "\\n", "-1"}
)
ROW = st.tuples(
    NAMES,
    NAMES,
    st.integers(631_152_000_000, 1_700_000_000_000),
    st.sampled_from([Kind.CLICK, Kind.EXPOSURE, Kind.PAST_CLICK]),
    st.integers(0, 10**12),
)


@settings(max_examples=30)
@given(st.lists(ROW, min_size=1, max_size=8))
def test_the_parquet_is_read_back_as_the_same_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    path = tmp_path_factory.mktemp("out") / "a.parquet"
    assert convert([batch(rows[:3]), batch(rows[3:])], path) == len(rows)
    assert read(f"log:{path}") == rows


@pytest.mark.parametrize("source", ["synthetic:users=20,items=30,clicks=5", "mind", "micro"])
def test_the_prepared_log_is_identical(tmp_path: Path, source: str) -> None:
    if source == "mind":
        (tmp_path / "a.tsv").write_text(
            "1\tU1\t11/15/2019 8:55:22 AM\tN1\tN3-0 N4-1\n2\tU2\t11/15/2019 8:00:00 AM\t\tN3-1\n"
        )
        source = f"mind:{tmp_path / 'a.tsv'}"
    elif source == "micro":  # newest first, within a ms
        lines = [f"u,i{n},2020-11-17T15:21:34.47100{n},click\n" for n in (9, 5, 1)]
        (tmp_path / "a.csv").write_text("user,item,timestamp,event\n" + "".join(lines))
        source = f"log:{tmp_path / 'a.csv'}"
    convert(parse(source).read("logged", RowErrors()), tmp_path / "out.parquet")
    made = [
        prepare(parse(text), Options(exposures="logged"), tmp_path / name)
        for name, text in (("first", source), ("second", f"log:{tmp_path / 'out.parquet'}"))
    ]
    assert pq.read_table(made[0].path).equals(pq.read_table(made[1].path))
    if "a.csv" in source:
        assert pq.read_table(made[0].path)["item"].to_pylist() == ["i1", "i5", "i9"]


def test_a_recbole_file_has_clicks_and_exposures_as_labels(tmp_path: Path) -> None:
    rows: list[Row] = [("u 1", "i", 1_600_000_000_123, Kind.CLICK, 0), ('"x', "j", 1_600_000_001_000, Kind.EXPOSURE, 0)]
    convert([batch(rows)], tmp_path / "a.inter")
    assert (tmp_path / "a.inter").read_text().splitlines()[:2] == [
        "user_id:token\titem_id:token\ttimestamp:float\tlabel:float",
        "u 1\ti\t1600000000.123\t1",
    ]
    assert read(f"recbole-labels:{tmp_path / 'a.inter'}") == rows


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("a.txt", None, "the output ends in .parquet or .inter"),
        ("a.parquet", None, "the source has no event"),
        ("b/a.parquet", None, "No such file"),
        ("a.inter", ("u\t", "i", 1, Kind.CLICK, 0), "has a tab or a line end"),
        ("a.parquet", ("u", "i", 10**14, Kind.CLICK, 0), "beyond the year 2262"),
        ("a.parquet", ("u", "i", 1, Kind.CANDIDATE, 0), "the stream of an experiment has candidates"),
    ],
)
def test_what_can_not_be_written_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, name: str, row: Row | None, says: str
) -> None:
    with pytest.raises(SourceError, match=says):
        convert([batch([row])] if row else [], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_finer_times_are_kept(tmp_path: Path) -> None:
    rows: list[Row] = [("u", "i", 1_600_000_000_000, Kind.CLICK, 0)]
    finer = pa.record_batch([*batch(rows).columns, pa.array([7], pa.int32())], schema=ROWS.append(FINER))
    convert([finer], tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["timestamp"].cast(pa.int64()).to_pylist() == [
        1_600_000_000_000_000_007
    ]


def test_the_command_writes_lists_and_refuses_to_replace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run: Callable[..., object] = lambda *arguments: app([*arguments], standalone_mode=False)  # noqa: E731
    out = tmp_path / "a.parquet"
    run("data", "convert", "synthetic:users=5", str(out))
    run("data", "convert", "synthetic:users=5", str(out), "--overwrite")
    with pytest.raises(ValueError, match="--overwrite replaces it"):
        run("data", "convert", "synthetic:users=5", str(out))
    run("data", "formats")
    run("data", "formats", "taobao")
    for text, says in (("taobo", "unknown format"), ("steam", "has no map")):
        with pytest.raises(ValueError, match=says):
            run("data", "formats", text)
    printed = capsys.readouterr().out
    assert "events written to" in printed
    assert 'events = { pv = "click"' in printed
