"""The page of commands, from the help texts of the `mc2sf` command."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from deploy.cli.main import app
from deploy.reference.markdown import Page, code, sentence

_METAVARS = {"str": "TEXT", "path": "FILE"}


def commands() -> Page:
    """Return the page of commands."""
    page = Page.titled(
        "Commands",
        "Exit code 0: success; 1: a check failed; 2: a mistake in the command or in a\n"
        "setting, explained in one sentence; 130: interrupted by Ctrl-C.",
    )
    root = get_command(app)
    page.text += "\n" + inspect.cleandoc(root.help or "") + "\n"
    for name, command in leaves(root, "mc2sf"):
        context = typer.Context(command, info_name=name)
        if not command.help:
            page.missing.append(name)
        page.section(name, textwrap.dedent(inspect.cleandoc(command.help or "")))
        usage = " ".join([name, *(piece.strip("{}") for piece in command.collect_usage_pieces(context))])
        page.text += f"```\n{usage}\n```\n"
        rows = [row for parameter in command.get_params(context) if (row := _row(parameter, context))]
        if rows:
            page.text += "\n"
            page.table(("option", "meaning"), rows)
    return page


def leaves(command: object, name: str) -> Iterator[tuple[str, TyperCommand]]:
    """Return the commands below a group that do something, with their full names."""
    if isinstance(command, TyperCommand):
        yield name, command
    if isinstance(command, TyperGroup):
        context = typer.Context(command, info_name=name)
        for word in command.list_commands(context):
            yield from leaves(command.get_command(context, word), f"{name} {word}")


def _row(parameter: object, context: typer.Context) -> tuple[str, str] | None:
    if not isinstance(parameter, TyperArgument | TyperOption) or parameter.name == "help":
        return None
    record = parameter.get_help_record(context)
    if record is None:
        return None
    if re.fullmatch(r"(\[.*\])?", record[1]):  # only bounds and default
        return code(record[0]), ""
    option = re.sub(r" <(str|path)>", lambda found: f" {_METAVARS[found[1]]}", record[0])
    return code(re.sub(r" <(int|float)( range)?>", " N", option)), sentence(record[1])
