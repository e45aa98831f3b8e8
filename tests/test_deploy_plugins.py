"""Plugins on the command line: hostile names and changed code end in one sentence and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.cli.main import main
from streams.plugins.loaded import loaded, setting
from streams.settings import PREFIX
from tests.support.command import Command

HOSTILE = (
    "os:system",
    "a.b:c:d",
    "../x:Y",
    "own:missing",
    "/etc/passwd:x",
    "own:__import__('os')",
    "[red]:x",
    "own:x\n",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def one(rank, n):\n    return 1.0\n")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.split())


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("option", ["--exposures", "--candidates", "--metric", "--variant"])
def test_a_name_that_is_no_plugin_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, name: str
) -> None:
    said = refused(capsys, "run", "synthetic:users=20", option, name, "--out", "run")
    assert "No such file" in said or "names no" in said or "is none of" in said or "has no missing" in said
    assert sorted(path.name for path in folder.iterdir()) == ["own.py"]


@pytest.mark.parametrize("name", ["os:system", "a.b:c:d", "../x:Y", "own:missing"])
def test_a_source_that_is_no_plugin_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert "error" in refused(capsys, "run", name, "--out", "run")
    assert "error" in refused(capsys, "data", "inspect", name)
    assert not (folder / "run").exists()


def test_a_process_whose_plugin_was_changed_since_the_run_began_ends_with_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}PLUGINS", setting(metrics=["own:one"]).replace(":one", ":other"))
    loaded.cache_clear()
    (folder / "own.py").write_text("raise SystemExit(9)\n")
    for process in ("recorder", "learner", "coordinator"):
        assert "own.py was changed: the run began with code of SHA-256" in refused(capsys, process)


def test_a_source_is_given_as_the_argument_or_as_an_option_but_once(
    folder: Path, mc2sf: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "log.csv").write_text("user,item,timestamp,event\na,1,1700000000,click\n")
    source = ["--source", "log:log.csv"]
    by_option, by_argument = (mc2sf("data", "inspect", *each, "--json") for each in (source, source[1:]))
    assert by_option.stdout == by_argument.stdout
    assert mc2sf("data", "convert", *source, "out.inter").returncode == 0
    assert mc2sf("data", "convert", "log:log.csv", "again.inter").returncode == 0
    assert (folder / "out.inter").read_bytes() == (folder / "again.inter").read_bytes()
    for command in (["run"], ["data", "inspect"], ["data", "convert"]):
        assert "name SOURCE, as an argument or with --source" in refused(capsys, *command)
        assert "SOURCE is given twice" in refused(
            capsys, *command, *["synthetic", "x"][: 1 + (command[-1] == "convert")], *source
        )
    assert "name OUT" in refused(capsys, "data", "convert", *source)
