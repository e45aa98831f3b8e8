"""Commands that files of deploy/ name, checked against the command line of the program."""

from __future__ import annotations

from collections.abc import Sequence

import click
import typer


def resolve(command: click.Command, words: Sequence[str]) -> None:
    """Parse the words of a command; an unknown or a missing word raises click's UsageError."""
    context, left = command.make_context("mc2sf", list(words)), list(words)
    while isinstance(command, typer.core.TyperGroup):
        word, found, left = command.resolve_command(context, left)
        assert found is not None, word
        command = found
        context = command.make_context(word, list(left), parent=context)
