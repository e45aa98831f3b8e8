"""A source of one's own is read, checked and sorted as every other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from replay.errors import RowErrors, SourceError
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.source import parse
from streams.plugins.loaded import loaded, setting
from streams.plugins.plugin import PluginError

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
LINES = "".join(
    f"2026-11-29T08:{i:02}:00 {'ab'[i % 2]} {('heard', 'skipped')[i % 3 == 0]} {i % 7}\n" for i in range(40)
)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(EXAMPLES)
    path = tmp_path / "a log=[1]:?.txt"
    path.write_text(LINES)
    return path


def own(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    monkeypatch.chdir(folder)
    (folder / "own.py").write_text(f"class Own:\n    def __init__(self, parameters): pass\n    {body}\n")
    return "own:Own"


def test_its_events_are_counted_and_its_file_decides_if_the_log_is_read_again(log: Path, tmp_path: Path) -> None:
    source = parse(f"radio:Radio:{log}")
    plan = prepare(source, Options(), tmp_path / "out")
    assert (plan.contents.rows, plan.contents.users, plan.contents.items, plan.contents.exposures) == (40, 2, 7, 14)
    assert source.files == (EXAMPLES / "radio.py", log)
    assert source.public == "radio:Radio"
    log.write_text(LINES + "2026-11-29T09:00:00 c heard 9\n")
    assert prepare(parse(f"radio:Radio:{log}"), Options(), tmp_path / "out").contents.rows == 41
    assert source.plugin is not None
    assert loaded(setting(others=[source.plugin])) == loaded("")


def test_bad_events_are_named_and_counted(log: Path) -> None:
    log.write_text(LINES + "yesterday a heard 1\n2026-11-29T08:00:00 a hummed 1\n2026-11-29T08:00:00 nan heard 1\n")
    with pytest.raises(SourceError, match=r"radio\.py, event 41: time is neither"):
        list(parse(f"radio:Radio:{log}").read("logged", RowErrors()))
    errors = RowErrors("skip")
    assert sum(batch.num_rows for batch in parse(f"radio:Radio:{log}").read("logged", errors)) == 40
    assert errors.total == 3


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("pass", "has no method events"),
        ("def events(self): return 7", "TypeError: 'int' object is not iterable"),
        ("def events(self): yield ('a', 'b')", r"event 1: no \(user, item, time, event, impression\)"),
        ("def events(self): yield 'hello'", "event 1: no "),
        ("def events(self): yield ('a', '', 1, 'click', 0)", "item is empty"),
        ("def events(self): yield ('a', 'b', 1, 'click', 1 / 0)", "ZeroDivisionError"),
        ("def events(self): yield ('a', 'b', __import__('time').time_ns(), 'click', 0)", "events are not the same"),
    ],
)
def test_a_source_that_breaks_a_law_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, sentence: str
) -> None:
    text = own(tmp_path, monkeypatch, body)
    with pytest.raises((SourceError, PluginError), match=sentence):
        list(parse(text).read("logged", RowErrors()))


@pytest.mark.parametrize(
    "text", ["os:system", "radio:None_such", "../radio:Radio", "radio.Radio:x y", "radio:Radio:x\0"]
)
def test_a_hostile_name_is_no_source(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(EXAMPLES)
    with pytest.raises((SourceError, PluginError)):
        list(parse(text).read("logged", RowErrors()))


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    with pytest.raises((SourceError, PluginError), match="no-such-file"):
        list(parse("radio:Radio:no-such-file").read("logged", RowErrors()))
