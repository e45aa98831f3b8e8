"""The `mc2sf` command as a test calls it, in this process or as it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., CommandResult]

# of a broker that is refused at once, as this file is no certificate: one that does not answer is waited for
UNUSABLE_BROKER = {"MC2SF_KAFKA_SECURITY": "SSL", "MC2SF_KAFKA_CA": __file__}


def installed(*arguments: str, **environment: str) -> CommandResult:
    """Run the command that pip installed, with some environment variables."""
    command = [Path(sys.executable).parent / "mc2sf", *arguments]
    env = os.environ | environment
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=580)
    assert "Traceback" not in done.stdout + done.stderr
    return CommandResult(done.returncode, done.stdout, done.stderr)
