"""`mc2sf replay`: the process that sends a log to the topics of a run."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import ReplayOptions, flattened, paced
from deploy.console import terminal
from deploy.user_error import UserError
from replay.prepare.plan import Plan, read_plan
from streams.settings import Settings

console = terminal()


@flattened
def replay(
    *,
    source: Annotated[
        str | None,
        typer.Argument(metavar="[SOURCE]", help="Log to send, as for `mc2sf run`; required without --prepared."),
    ] = None,
    prepared: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Send the plan that `mc2sf run --out DIR` prepared, with its options."),
    ] = None,
    options: ReplayOptions,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the sorted log.  [default: MC2SF_STATE_DIR]")
    ] = None,
) -> None:
    """Send SOURCE to the topics of the run in the environment.

    An interrupted replay continues from its last record. SIGUSR1 and the live page of the run pause and resume it.
    """
    from replay.send.clock_file import ClockFile
    from replay.send.epoch_barrier import free, lockstep
    from replay.send.replayer import send
    from replay.send.virtual_clock import VirtualClock
    from streams.kafka import topic_admin
    from streams.process import telemetry
    from streams.process.health import HEALTH
    from streams.process.retry import retrying

    settings = Settings()
    retrying(settings.patience_s)(topic_admin.require, settings)
    plan = _plan(source, prepared, options, folder, settings)
    telemetry.serve(settings, "replay")
    for fate, reason, rows in plan.account.rows():
        telemetry.LOG_ROWS.labels(fate, reason).set(rows)
    HEALTH.needs("log")
    clock = VirtualClock(1.0 if plan.rate else plan.speed, tick_s=plan.tick_s)
    signal.signal(signal.SIGUSR1, clock.toggle)
    with lockstep(settings) if settings.lockstep else nullcontext(free) as decide:
        control = ClockFile(settings.state_dir).control(clock, plan.rate)
        result = send(settings, plan, decide=decide, clock=clock, control=control)
    console.print(f"{result.events_sent:,} events sent in {plan.epochs} epochs")


def _plan(
    source: str | None, prepared: Path | None, options: ReplayOptions, folder: Path | None, settings: Settings
) -> Plan:
    """Return the prepared plan, or prepare SOURCE. Raises UserError for both or neither."""
    if prepared is not None:
        if source is not None or folder is not None or options != ReplayOptions():
            raise UserError("--prepared: the plan decides source and options; leave out SOURCE and the other options")
        return read_plan(prepared)
    if source is None:
        raise UserError("name a SOURCE, or the folder of a plan with --prepared")
    from deploy.cli.data import commands as data

    plan = data.prepared(source, options.parsed(settings.faults), folder or settings.state_dir, console)
    data.print_findings(plan, console)
    return paced(plan, options.speed, lockstep=settings.lockstep)
