"""The options that commands share: which part of a source is replayed, how, and how spans of time are written.

The options of `run` and `replay` are one object, `ReplayOptions`; `flattened` gives Typer a parameter per field of it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import msgspec
import typer
from typer.models import ArgumentInfo

from deploy.cli.data.map_options import MapOptions
from deploy.cli.source_argument import SourceOption, with_source
from deploy.user_error import UserError
from replay.errors import InvalidError, OnError
from replay.faults import Faults
from replay.prepare.log_account import Acceptable
from replay.prepare.plan import POLICIES, Options, Plan, exposure_policy
from replay.times import MS, span
from replay.values.times import Times, number_of
from streams.plugins.plugin import is_name

if TYPE_CHECKING:
    from replay.sources.log_map import LogMap

EMBEDDED_TICKS, TICK_MAX_S = 5_000, 0.5  # of a replay into the embedded broker: most ticks, the longest one
AUTO, FREE_RATE, FREE_MIN_S = "auto", 1000.0, 120.0  # --speed auto, free-running: events per s, shortest replay
RETRAINS = 10  # retrains per source, if --retrain-every is not given

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, or its --out folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
UsersOption = Annotated[int | None, typer.Option(min=1, help="Number of users, chosen by a hash of their names.")]


def choice(*choices: str) -> Callable[[str], str]:
    """Return a parser of an option that takes one of `choices`, or a plugin as MODULE:NAME."""

    def parsed(text: str) -> str:
        if text not in choices and not is_name(text):
            raise typer.BadParameter(f"{text!r} is none of {', '.join(map(repr, choices))}, and no MODULE:NAME")
        return text

    return parsed


PolicyOption = Annotated[
    str | None,
    typer.Option(
        parser=choice(*POLICIES),
        metavar="|".join([*POLICIES, "MODULE:NAME"]),
        help="Source of exposures: the log, low ratings, simulation, or a plugin MODULE:NAME.  [default: the first one "
        "that SOURCE supports]",
    ),
]

MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", metavar="MODULE:NAME", help="Plugin that is a ranking metric; repeatable. docs/plugins.md"
    ),
]

VariantOption = Annotated[
    list[str] | None,
    typer.Option("--variant", metavar="MODULE:NAME", help="Plugin that ranks candidates; repeatable. docs/plugins.md"),
]


@dataclass(frozen=True, kw_only=True)
class SelectionOptions(MapOptions):
    """The part of a source that is read, and how it is written."""

    exposures: PolicyOption = None
    start: Annotated[
        str | None, typer.Option("--from", help="Skip events before this time: ISO 8601 or seconds since 1970.")
    ] = None
    end: Annotated[
        str | None, typer.Option("--to", help="Skip events from this time on: ISO 8601 or seconds since 1970.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of events.")] = None
    users: UsersOption = None
    impression_span: Annotated[
        str, typer.Option(metavar="SPAN", help="Maximum span of event time of an impression; longer ones are split.")
    ] = "30m"
    accept: Annotated[
        list[Acceptable] | None,
        typer.Option(
            help="Accept a log with this finding of `mc2sf data inspect`, which otherwise stops the command.",
            show_default=False,
        ),
    ] = None

    def selected(self, on_error: OnError) -> Options:
        """Return the options of the replayer. Raises UserError for a time that can't be parsed."""
        exposures, plugin = exposure_policy(self.exposures)
        log_map = self.log_map()
        return Options(
            log_map=log_map,
            exposures=exposures,
            plugin=plugin,
            on_error=on_error,
            start=moment("--from", self.start, log_map),
            end=moment("--to", self.end, log_map),
            limit=self.limit,
            users=self.users,
            impression_span=span_of("--impression-span", self.impression_span),
            accept=frozenset(self.accept or ()),
        )


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(SelectionOptions):
    """The selected part of a source and the way it is replayed."""

    speed: Annotated[
        str,
        typer.Option(
            help="Pace: event time over wall time (3600: an hour per second), events per second (1000/s), or max. auto "
            "means max in lockstep; free-running 1000/s, or less so that the replay takes at least two minutes."
        ),
    ] = AUTO
    epoch: Annotated[
        str | None,
        typer.Option(
            help="Length of an epoch: a span of event time (6h) or a number of events (5000).  [default: 200 epochs]"
        ),
    ] = None
    loops: Annotated[
        int, typer.Option(min=1, help="Number of times to replay the log, each time with later event times.")
    ] = 1
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 1
    on_error: Annotated[
        OnError, typer.Option(help="At an invalid row: stop, or skip it, count it and list the first ones.")
    ] = "stop"

    def parsed(self, faults: str = "") -> Options:
        """Return the options of the replayer. Raises UserError if one of them can't be parsed."""
        selected = self.selected(self.on_error)
        rate, factor = self.speed.endswith("/s"), speed_factor(self.speed.removesuffix("/s"))
        try:
            of_devices = Faults.parse(faults)
        except ValueError as error:
            raise UserError(f"--faults {error}") from error
        return replace(
            selected,
            seed=self.seed,
            epoch=self.epoch,
            loops=self.loops,
            speed=None if rate else factor,
            rate=factor if rate else None,
            faults=of_devices,
        )


def span_of(option: str, text: str) -> int:
    """Return the span of time, ms, in the value of an option. Raises UserError."""
    try:
        return span(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error


def _is_argument(parameter: inspect.Parameter) -> bool:
    return any(isinstance(each, ArgumentInfo) for each in getattr(parameter.annotation, "__metadata__", ()))


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with a parameter per field of its parameter `options`, which is one of the classes above.

    Its argument `source` can be given as the option `--source`, too.
    """
    signature = inspect.signature(command, eval_str=True)
    kind = signature.parameters["options"].annotation
    hints = get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind)]

    arguments = [each for each in signature.parameters.values() if _is_argument(each)]
    if "source" not in signature.parameters:
        arguments = []

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        options = kind(**{name: values.pop(name) for name in names})
        if arguments:
            values |= with_source(arguments, values, values.pop("source_option"))
        command(**values, options=options)

    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name == "options":
            parameters += [
                inspect.Parameter(
                    field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
                )
                for field in fields(kind)
            ]
        elif parameter in arguments:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, default=None))
        else:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
    if arguments:
        parameters.append(
            inspect.Parameter("source_option", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=SourceOption)
        )
    flat.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by Typer
    return flat


def paced(plan: Plan, speed: str, *, lockstep: bool) -> Plan:
    """Return the plan with the rate of `--speed auto`: free-running, retrains must end while events still come."""
    if lockstep or speed != AUTO:
        return plan
    return msgspec.structs.replace(plan, rate=min(FREE_RATE, plan.events / FREE_MIN_S))


def for_embedded_broker(plan: Plan) -> Plan:
    """Return the plan with ticks so long that the replay sends at most EMBEDDED_TICKS batches per partition.

    The embedded broker looks through all batches of a partition to find one, so its cost grows with the square of their
    number. With a hundred thousand on a busy machine consumers fall behind for good: a fetch may not wait for so long.
    So a tick lasts up to TICK_MAX_S.
    """
    return msgspec.structs.replace(plan, tick_s=min(TICK_MAX_S, max(plan.tick_s, plan.seconds / EMBEDDED_TICKS)))


def speed_factor(text: str) -> float | None:
    """Parse the number of --speed; None for max and auto. Raises UserError."""
    if text in {"max", AUTO}:
        return None
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--speed {text!r}: write a positive number, one of events per second (1000/s), max or auto")
    return value


def moment(option: str, text: str | None, log_map: LogMap | None = None) -> int | None:
    """Return the event time, ms, in the value of an option: ISO 8601, a number, or a time as the log writes it.

    A text may be of any year from 1970 on, as logs may be whose unit is given. Raises UserError.
    """
    if text is None:
        return None
    if log_map is not None:
        with suppress(InvalidError):
            return Times(log_map.time_unit, log_map.time_format, log_map.tz).ns(text) // MS
    try:
        return Times("s" if number_of(text) is None else None, options=False).ns(text) // MS
    except InvalidError as error:
        raise UserError(f"{option} {text!r} is no time: {error}; write ISO 8601 or seconds since 1970") from error


def epochs_between_retrains(text: str | None, plan: Plan) -> int:
    """Return the number of epochs between two retrains, from `1d`, `100000` events, or RETRAINS. Raises UserError."""
    epochs = len(plan.ends)
    if text is None:
        return max(1, epochs // RETRAINS)
    if text.isdecimal() and int(text):
        share = int(text) / plan.contents.rows
    else:
        try:
            share = span(text) / plan.shift
        except ValueError as error:
            raise UserError(f"--retrain-every {text!r}: write a span (1d, 6h) or a number of events") from error
    return max(1, round(share * epochs))
