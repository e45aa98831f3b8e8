"""What the user asked of a source, as options shared by `run` and `replay`, and how spans of time are written."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from deploy.runs import UserError
from replay.errors import OnError
from replay.faults import Faults
from replay.prepare.plan import Options, Plan
from replay.times import milliseconds, span
from streams.settings import Exposures

RETRAINS = 10  # a source, where nothing else is asked
By = Literal["mc2sf", "fast"]  # the device's scores: under eq. (8), and of the fast part alone


SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="synthetic[:users=1000,...], ml-1m:DIR, ml-100k:DIR, steam:FILE, ebnerd:DIR, alipay:FILE, log:FILE; "
        "or protocol:SOURCE, what `mc2sf experiment` ranks of it as a stream",
    ),
]
SpeedOption = Annotated[str, typer.Option(help="event time over wall time, or max")]
EpochOption = Annotated[
    str | None, typer.Option(help="a span of event time (6h) or a number of events (5000) [default: 200 epochs]")
]
PolicyOption = Annotated[Exposures | None, typer.Option(help="[default: the source's own]")]
FromOption = Annotated[str | None, typer.Option("--from", help="event time, ISO 8601 or epoch seconds")]
ToOption = Annotated[str | None, typer.Option("--to", help="event time before which to end")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="events at the most")]
UsersOption = Annotated[int | None, typer.Option(min=1, help="users at the most, chosen by a hash of their name")]
LoopsOption = Annotated[int, typer.Option(min=1, help="replay the log that often, each time later by its span")]
OnErrorOption = Annotated[OnError, typer.Option(help="a bad row stops the run, or is skipped, counted and listed")]
SeedOption = Annotated[int, typer.Option(min=0)]
FaultsOption = Annotated[
    str,
    typer.Option(
        metavar="FAULT=SHARE,...",
        help="of the devices: offline, reordered, skew, lost, duplicates, old (shares), hostile (a number)",
        show_default=False,
    ),
]


def options(
    *,
    speed: str,
    epoch: str | None,
    exposures: Exposures | None,
    start: str | None,
    end: str | None,
    limit: int | None,
    users: int | None,
    loops: int,
    on_error: OnError,
    seed: int,
    faults: str = "",
) -> Options:
    """Return the replayer's options. Raises UserError where one can't be read."""
    try:
        found = Faults.parse(faults)
    except ValueError as error:
        raise UserError(f"--faults {error}") from error
    return Options(
        exposures=exposures,
        on_error=on_error,
        start=moment(start),
        end=moment(end),
        limit=limit,
        users=users,
        seed=seed,
        epoch=epoch,
        loops=loops,
        speed=pace(speed),
        faults=found,
    )


def pace(text: str) -> float | None:
    """Return event time over wall time; None is as fast as possible."""
    if text == "max":
        return None
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--speed {text!r}: write a positive number, or max")
    return value


def moment(text: str | None) -> int | None:
    """Return an event time in ms."""
    if text is None:
        return None
    try:
        return milliseconds(text)
    except ValueError as error:
        raise UserError(f"{text!r} is no time ({error}): write ISO 8601 or seconds since 1970") from error


def epochs_between_retrains(text: str | None, plan: Plan) -> int:
    """Return after how many epochs a retrain is due, from `1d`, `100000` events, or ten a source."""
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


def tell_refused(plan: Plan, console: Console) -> None:
    """Say how many rows were skipped, for which reasons, and where the first ones stand."""
    if not plan.refused:
        return
    total, first = sum(plan.refused.values()), plan.refused_first
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.refused.items())
    more = "" if total == len(first) else f"; the first {len(first)}"
    lines = [f"{total:,} rows refused: {reasons}{more}:", *(f"  {text}" for text in first)]
    console.print(escape("\n".join(lines)), highlight=False, soft_wrap=True)
