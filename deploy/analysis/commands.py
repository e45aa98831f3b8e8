"""Call `mc2sf data inspect` and `mc2sf run` from Python, each in a child process.

Options are those of the command with underscores for hyphens: `retrain_every="1d"` is `--retrain-every 1d`,
`from_="2023-05-18"` is `--from 2023-05-18`, `lockstep=False` is `--free`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from deploy.analysis.opened_run import Run
from deploy.runs import RunFailed
from deploy.user_error import UserError

Option = bool | int | float | str | Path | Sequence[str] | Mapping[str, str] | None
Description = dict[str, object]
_NEGATIONS = {"--lockstep": "--free", "--header": "--no-header"}  # of the options that have one


def inspect(source: str, **options: Option) -> Description:
    """Return the output of `mc2sf data inspect --json`, including the rows that can't be read.

    Raises UserError if the log or an option can't be read.
    """
    printed = _run_command("data", "inspect", source=source, options=options | {"json": True}, show=False)
    return msgspec.json.decode(printed, type=Description)


def run(source: str, out: str | Path, *, quiet: bool = False, **options: Option) -> Run:
    """Run `source` into the folder `out` and return the run. Progress is printed unless `quiet`.

    Raises UserError if the log or an option can't be read, and RunFailed if a check of the result fails.
    """
    _run_command("run", source=source, options=options | {"out": out}, show=not quiet)
    return Run(out)


def arguments(options: Mapping[str, Option]) -> list[str]:
    """Return options as arguments of the command: `--name=value`, so that no value is taken for an option."""
    arguments = []
    for name, value in options.items():
        option = "--" + name.rstrip("_").replace("_", "-")
        if value is False:
            arguments += [_NEGATIONS[option]] if option in _NEGATIONS else []
        elif value is True:
            arguments.append(option)
        elif isinstance(value, Mapping):
            arguments.append(f"{option}={','.join(f'{key}={each}' for key, each in value.items())}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            arguments += [f"{option}={each}" for each in value]
        elif value is not None:
            arguments.append(f"{option}={value}")
    return arguments


def _run_command(*command: str, source: str, options: Mapping[str, Option], show: bool) -> bytes:
    """Run a command of `mc2sf` and return its standard output. Ctrl-C and a notebook's interrupt stop it."""
    line = [sys.executable, "-m", "deploy.cli", *command, *arguments(options), "--", source]
    printed = []
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 - this program, and no shell
            line, stdout=subprocess.PIPE, stderr=errors, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        assert process.stdout is not None
        with process.stdout:
            try:
                for text in process.stdout:
                    printed.append(text)
                    if show:
                        print(text.decode(errors="replace"), end="", flush=True)  # noqa: T201 - progress in a notebook
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                process.wait()
                raise
            process.wait()
        errors.seek(0)
        reason = errors.read().decode(errors="replace").strip()
    if process.returncode == 1 and command[0] == "run":
        raise RunFailed(reason.removeprefix("the run failed: "))
    if process.returncode not in (0, 1):
        raise UserError(reason.removeprefix("error: ") or f"mc2sf {' '.join(command)} ended with {process.returncode}")
    return b"".join(printed)
