"""An exposure policy of one's own: it knows the past only, and what it shows is checked."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.errors import SourceError
from replay.prepare.plan import Options
from replay.prepare.plugin_exposures import plugin_exposures
from replay.prepare.prepare import prepare
from replay.sources.schema import ROWS, Row
from replay.sources.source import parse
from streams.plugins.plugin import Plugin, PluginError, named
from streams.records import Kind
from tests.support.logs import HEADER, batch, rows_of

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
LOG: list[Row] = [("ab"[n // 3 % 2], f"i{n * n % 11}", n * 1000, Kind.CLICK, n // 3 + 1) for n in range(60)]


def added(folder: Path, rows: list[Row], plugin: Plugin, seed: int = 1) -> list[Row]:
    pq.write_table(pa.Table.from_batches([batch(rows)], ROWS), folder / "log.parquet", row_group_size=7)
    batches = list(plugin_exposures(folder / "log.parquet", len(rows), seed, "log:x", plugin))
    assert [place for one in batches for place in one["position"].to_pylist()] == list(range(sum(map(len, batches))))
    return [row for one in batches for row in rows_of(one)]


@pytest.fixture
def recent(monkeypatch: pytest.MonkeyPatch) -> Plugin:
    monkeypatch.chdir(EXAMPLES)
    return named("exposures", "recent:Recent")


def test_clicks_stay_and_what_is_shown_depends_on_the_past_only(tmp_path: Path, recent: Plugin) -> None:
    rows = added(tmp_path, LOG, recent)
    assert [row[:4] for row in rows if row[3] == Kind.CLICK] == [row[:4] for row in LOG]
    shown = [row for row in rows if row[3] == Kind.EXPOSURE]
    assert len(shown) > 60
    assert rows == added(tmp_path, LOG, recent)
    assert rows != added(tmp_path, LOG, recent, seed=2)
    for cut in (9, 30):  # three clicks a group
        group = -1 - cut
        before = [row for row in rows if row[4] > group]
        assert added(tmp_path, LOG[:cut], recent) == before
        changed = [*LOG[: cut + 1], *((u, "other", t, k, i) for u, _, t, k, i in LOG[cut + 1 :])]
        same = [
            row
            for row in added(tmp_path, changed, recent)
            if row[4] > group or (row[4] == group and row[2] == cut * 1000)
        ]
        assert same[: len(before)] == before, "a later event of the same impression changes nothing"


def test_a_policy_is_asked_for_a_whole_impression_before_it_learns_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    body = "    n = 0\n    def shown(self, *_): return [f'after {self.n}']\n    def learn(self, *_): self.n += 1\n"
    (tmp_path / "own.py").write_text(f"class Own:\n{body}")
    rows = added(tmp_path, LOG[:9], named("exposures", "own:Own"))
    shown = [row[1] for row in rows if row[3] == Kind.EXPOSURE]
    assert shown == [f"after {n}" for n in (0, 0, 0, 3, 3, 3, 6, 6, 6)]


def test_a_log_is_prepared_with_it_and_again_if_its_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.csv").write_text(
        HEADER + "".join(f"u{n % 3},i{n % 5},{1_700_000_000 + n},click\n" for n in range(30))
    )
    monkeypatch.chdir(tmp_path)
    rows = []
    for item in ("first", "second"):
        (tmp_path / "own.py").write_text(
            f"class Own:\n    def shown(self, *_): return ['{item}']\n    def learn(self, *_): pass\n"
        )
        options = Options(exposures="plugin", plugin=named("exposures", "own:Own"))
        plan = prepare(parse("log:log.csv"), options, tmp_path / "out")
        assert (plan.policy, plan.contents.rows, plan.contents.exposures) == ("plugin", 60, 30)
        rows.append(set(pq.read_table(plan.path)["item"].to_pylist()))
    assert ("first" in rows[0], "second" in rows[1], "first" in rows[1]) == (True, True, False)


def test_exposures_of_the_log_are_not_mixed_with_others(tmp_path: Path, recent: Plugin) -> None:
    with pytest.raises(SourceError, match="the log has its own"):
        added(tmp_path, [("a", "i", 1, Kind.EXPOSURE, 0)], recent)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def learn(self, *_): pass", "has no method shown"),
        ("def shown(self, *_): return 'abc'", "a list of at most 100 items"),
        ("def shown(self, *_): return list(range(101))", "a list of at most 100 items"),
        ("def shown(self, *_): return ['']", "item is empty"),
        ("def shown(self, *_): return [1 / 0]", "ZeroDivisionError"),
        ("def shown(self, *_): return [__import__('time').time_ns()]", "called again"),
        ("def __init__(self, needed): pass", "TypeError"),
    ],
)
def test_a_policy_that_breaks_a_law_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    learn = "" if "learn" in body else "    def learn(self, *_): pass\n"
    (tmp_path / "own.py").write_text(f"class Own:\n    {body}\n{learn}")
    with pytest.raises(PluginError, match=sentence):
        added(tmp_path, LOG, named("exposures", "own:Own"))


def test_neither_the_click_nor_a_repeat_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = "def shown(self, *_): return ['i0', 'i1', 'i0']\n    def learn(self, *_): pass"
    (tmp_path / "own.py").write_text(f"class Own:\n    {body}\n")
    rows = added(tmp_path, LOG[:2], named("exposures", "own:Own"))
    assert [row[1] for row in rows] == ["i1", "i0", "i0", "i1"]
