"""The SOURCE of a command, as its argument or as `--source`, and the source that the text names."""

from __future__ import annotations

from inspect import Parameter
from types import NoneType
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from deploy.user_error import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from replay.sources.log_map import LogMap
    from replay.sources.source import Source
    from streams.plugins.plugin import Plugin

PROTOCOL = "protocol:"

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="synthetic[:users=1000,...], ml-1m:DIR, ml-100k:DIR, steam:FILE, ebnerd:DIR, alipay:FILE, log:FILE (or a "
        "folder of parts, or - for standard input), or a public log that `mc2sf data formats` lists; "
        "or protocol:SOURCE, the stream of what `mc2sf experiment` ranks; or module:Class[:PARAMETERS], of a file "
        "module.py in the current folder (docs/plugins.md).",
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", metavar="SOURCE", help="SOURCE as an option, instead of the argument: module:Class."),
]


def with_source(arguments: list[Parameter], values: dict[str, object], option: str | None) -> dict[str, object]:
    """Return the values of the arguments of a command, the first of which is SOURCE or is given as `option` instead.

    Raises UserError if SOURCE is given twice, or a needed argument is missing.
    """
    given = [values[each.name] for each in arguments]
    if option is not None:
        if given[-1] is not None:
            raise UserError(f"SOURCE is given twice: as the argument {given[0]!r} and as --source {option!r}")
        given = [option, *given[:-1]]
    for each, value in zip(arguments, given, strict=True):
        if value is None and each.default is Parameter.empty:
            also = ", as an argument or with --source" if each.name == "source" else ""
            raise UserError(f"name {each.name.upper()}{also}")
    kinds = [_kind(each) for each in arguments]
    return {e.name: v if v is None else kind(v) for e, v, kind in zip(arguments, given, kinds, strict=True)}


def _kind(argument: Parameter) -> Callable[[object], object]:
    """Return the type of a value of `argument`, which its annotation may join with None."""
    annotation = get_args(argument.annotation)[0]
    (kind,) = {*get_args(annotation)} - {NoneType} or {annotation}
    return cast("Callable[[object], object]", kind)


def is_protocol(text: str) -> bool:
    """Return True if `text` names the stream of an experiment."""
    return text.startswith(PROTOCOL)


def parse_source(text: str, log_map: LogMap | None = None) -> Source:
    """Return the source that `text` names. Raises SourceError; only a `protocol:` source is read at once."""
    from replay.sources import source

    if not is_protocol(text):
        return source.parse(text, log_map)
    from deploy.experiments.streaming import source as experiment_stream

    return experiment_stream.source(text)


def source_plugin(text: str, log_map: LogMap | None) -> Plugin | None:
    """Return the plugin that a SOURCE or the source of an experiment's stream is. Raises SourceError."""
    if not is_protocol(text):
        return parse_source(text, log_map).plugin
    from deploy.experiments.streaming.source import StreamRequest

    return StreamRequest.of(text).request.source.plugin
