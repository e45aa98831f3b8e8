"""The command's help, version, completion and start: quick, and from the commands themselves."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer

from deploy.cli.main import Commands, app, main

HEAVY = {"torch", "duckdb", "pyarrow", "sqlalchemy", "alembic", "confluent_kafka", "faust", "river", "rich.table"}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code
    return capsys.readouterr().out


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | environment
    )
    return done.stdout


def loaded(module: str) -> set[str]:
    """The heavy packages that an import of `module` loads."""
    return set(python(f"import sys, {module}; print(*sys.modules)").split()) & HEAVY


@pytest.mark.parametrize("name", list(Commands.entries))
def test_the_line_of_a_command_is_the_first_of_its_help(name: str) -> None:
    command = typer.main.get_command(app).get_command(typer.Context(typer.main.get_command(app)), name)
    assert inspect.cleandoc(command.help).splitlines()[0] == Commands.entries[name].summary


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", ["", *Commands.entries, "data inspect", "worker device", "topics create"])
def test_every_command_has_both_flags_for_help(capsys: pytest.CaptureFixture[str], command: str, flag: str) -> None:
    words = " ".join(printed(capsys, *command.split(), flag).split())
    assert "Usage: " in words
    assert f"{command} [OPTIONS]" in words
    assert "-h" in words


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--version") == f"mc2sf {version('mc2sf')}\n"


@pytest.mark.process
def test_a_shell_completes_commands_and_options() -> None:
    code = "from deploy.cli.main import app; app(prog_name='mc2sf')"
    asked = {"_MC2SF_COMPLETE": "complete_bash", "COMP_WORDS": "mc2sf re", "COMP_CWORD": "1"}
    assert set(python(code, **asked).split()) == {"recommend", "releases", "replay", "recorder", "retrain"}
    asked |= {"COMP_WORDS": "mc2sf run --spe", "COMP_CWORD": "2"}
    assert python(code, **asked).split() == ["--speed"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("deploy.cli.main", set()),
        ("deploy.cli.run", set()),
        ("deploy.cli.processes", set()),
        ("streams.recorder.recorder", {"sqlalchemy", "alembic", "confluent_kafka", "river"}),
        (
            "deploy.cli.replay, replay.send.replayer, replay.send.epoch_barrier",
            {"pyarrow", "confluent_kafka", "sqlalchemy"},
        ),
    ],
)
def test_a_command_loads_what_it_uses(module: str, packages: set[str]) -> None:
    assert loaded(module) - {"rich.table"} <= packages
