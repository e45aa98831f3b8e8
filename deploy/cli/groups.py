"""Groups of commands; the root imports the module of a command when the command is used, not before."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


def group(text: str) -> typer.Typer:
    """Return an empty group of commands that `text` describes."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help=text)


class Entry(NamedTuple):
    """A command: `target` is "module:name" of a function or a `typer.Typer`, `summary` its line in the list."""

    target: str
    summary: str


class LazyGroup(TyperGroup):
    """A group of `entries`. Its help shows their summaries and imports none of them."""

    entries: ClassVar[Mapping[str, Entry]]

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # Typer hides Click's Context
        """Return the names in the order of `entries`."""
        del ctx
        return list(self.entries)

    def get_command(  # type: ignore[override]  # Typer hides Click's Context
        self, ctx: typer.Context, cmd_name: str
    ) -> TyperCommand | TyperGroup | None:
        """Import and return a command; None if there is none of that name."""
        del ctx
        if cmd_name not in self.entries:
            return None
        module, _, name = self.entries[cmd_name].target.partition(":")
        found = getattr(import_module(module), name)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False, rich_markup_mode="markdown")
            found.command(cmd_name)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        assert isinstance(command, TyperCommand | TyperGroup)
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the group, with a line per command."""
        TyperGroup(
            name=self.name,
            commands={name: TyperCommand(name, short_help=entry.summary) for name, entry in self.entries.items()},
            params=self.params,
            help=self.help,
            rich_markup_mode=self.rich_markup_mode,
        ).format_help(ctx, formatter)
