"""The documents of the repository: their code blocks and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from deploy.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
    if path.name != "CHANGELOG.md"
)


class Command(NamedTuple):
    """A shell command of a `console` block, without its comment."""

    page: str
    text: str


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[Command]:
    """Return the commands of the `console` blocks of a page; a line that ends with a backslash goes on."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    texts = (re.sub(r"\s#\s.*$", "", line[2:]) for line in lines if line.startswith("$ "))
    return [Command(page.name, " ".join(text.split())) for text in texts]


def mc2sf(text: str) -> list[list[str]]:
    """Return the arguments of every call of `mc2sf` in a command, without what surrounds them in the shell."""
    calls = []
    for part in re.split(r"[;|]|&&|&$|\bdo\b", text):
        words = shlex.split(re.sub(r"\$\((.*?)\)", r" \1 ", part))  # of a substitution its command
        names = [index for index, word in enumerate(words) if Path(word).name == "mc2sf"]
        if names:
            given = words[names[-1] + 1 :]
            calls.append(given[: given.index(">")] if ">" in given else given)
    return calls


def parse(arguments: list[str]) -> None:
    """Parse the arguments of `mc2sf` without running anything. Raises UsageError if it would refuse them."""
    command: object = typer.main.get_command(app)
    while isinstance(command, TyperGroup):
        context = typer.Context(command)
        _, command, arguments = command.resolve_command(context, arguments)
    assert isinstance(command, TyperCommand), arguments
    command.make_context("mc2sf", list(arguments))
