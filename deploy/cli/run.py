"""`mc2sf run`, `replay` and `evaluate`: what moves events and what judges them."""

from __future__ import annotations

import secrets
import signal
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from pydantic import SecretStr
from rich.console import Console

from deploy.cli import options as asked
from deploy.cli.sources import is_protocol, parse
from deploy.local.signals import Interrupts
from deploy.report.summary import by_variant
from deploy.report.terminal import quality, show
from deploy.runs import UserError, find, give_way, refuse_foreign
from replay.prepare.plan import Options, Plan
from replay.prepare.prepare import prepare
from streams.kafka import topic_admin
from streams.process import telemetry
from streams.process.health import HEALTH
from streams.process.retry import retrying
from streams.settings import Settings

if TYPE_CHECKING:
    from deploy.experiments.streaming.initial_release import Given

console = Console()


def run(
    source: asked.SourceArgument,
    lockstep: Annotated[
        bool, typer.Option("--lockstep/--free", help="repeatable to the last digit, or as it is operated")
    ] = True,
    speed: asked.SpeedOption = "max",
    epoch: asked.EpochOption = None,
    retrain_every: Annotated[
        str | None, typer.Option(help="a span of event time (1d) or a number of events (100000) [default: ten times]")
    ] = None,
    threshold: Annotated[int, typer.Option(min=1, max=100, help="exposures a window")] = 10,
    evaluate: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="SHARE", help="share of clicks ranked [default: 0.05]")
    ] = None,
    exposures: asked.PolicyOption = None,
    start: asked.FromOption = None,
    end: asked.ToOption = None,
    limit: asked.LimitOption = None,
    users: asked.UsersOption = None,
    loops: asked.LoopsOption = 1,
    workers: Annotated[int, typer.Option(min=1, max=16, help="device workers, and as many cloud workers")] = 1,
    seed: asked.SeedOption = 1,
    faults: asked.FaultsOption = "",
    brokers: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Kafka [default: an embedded broker]")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="SQLAlchemy URL [default: SQLite in --out]", show_default=False)
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="continue this run (needs --brokers)")] = None,
    on_error: asked.OnErrorOption = "stop",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="results [default: runs/RUN]")] = None,
) -> None:
    """Run the main job: replay SOURCE through device, cloud, learner and retrain, and account for every event.

    Ends by itself with a table, `DIR/summary.json` and `DIR/report.html`; exit code 0 only if everything sent was
    applied and every rank comes out the same when scored again from the tables. Ctrl-C stops everything cleanly; the
    space bar pauses and resumes.

    `protocol:SOURCE` replays what `mc2sf experiment ablation` ranked, on its lists, with the nets that it fitted and no
    other; exit code 0 then also says that every rank is the experiment's.
    """
    from deploy.local import job as running  # noqa: PLC0415 - only this command pays for its imports

    options = asked.options(
        speed=speed,
        epoch=epoch,
        exposures=exposures,
        start=start,
        end=end,
        limit=limit,
        users=users,
        loops=loops,
        on_error=on_error,
        seed=seed,
        faults=faults,
    )
    usual = Options(on_error=options.on_error, seed=seed, speed=options.speed)
    nothing_asked = threshold == 10 and evaluate is None and retrain_every is None
    given = _given(source, plain=options == usual and lockstep and nothing_asked)
    run_id, folder = _named(source, resume, out)
    folder.mkdir(parents=True, exist_ok=True)
    plan = _prepare(source, options, folder)
    url = database or f"sqlite:///{(folder / 'mc2sf.db').resolve()}"
    asked_for = {
        "evaluate": 0.05 if evaluate is None else evaluate,
        "threshold": threshold,
        "history_short": min(10, 2 * threshold),
        "retrain_every": asked.epochs_between_retrains(retrain_every, plan),
    }
    settings = Settings(
        run=run_id,
        database=SecretStr(url),
        state_dir=folder.resolve() / "state",
        lockstep=lockstep,
        seed=seed,
        exposures=plan.policy,
        faults=str(plan.faults),
        **asked_for | (given.settings if given else {}),
    )
    if resume and brokers is None:
        raise UserError("--resume needs --brokers: the embedded broker's log was lost when it stopped")
    job = running.Job(source, options, settings, folder, workers, brokers, resume is not None, given)
    interrupts = Interrupts()
    interrupts.install()
    if not resume:  # all that was asked for makes sense: what a run before this one left in the same folder gives way
        give_way(folder)
    try:
        document = running.execute(job, plan, _again(source, options, folder), console, interrupts)
    except KeyboardInterrupt:
        again = f"mc2sf run {source} --resume {run_id} --brokers {brokers} ..." if brokers else "mc2sf run again"
        console.print(f"\ninterrupted: every process was stopped. {again} goes on from here.")
        raise typer.Exit(130) from None
    show(console, document, folder)


def replay(
    source: asked.SourceArgument,
    speed: asked.SpeedOption = "max",
    epoch: asked.EpochOption = None,
    exposures: asked.PolicyOption = None,
    start: asked.FromOption = None,
    end: asked.ToOption = None,
    limit: asked.LimitOption = None,
    users: asked.UsersOption = None,
    loops: asked.LoopsOption = 1,
    seed: asked.SeedOption = 1,
    on_error: asked.OnErrorOption = "stop",
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="keeps the sorted log and the progress [default: state_dir]"),
    ] = None,
) -> None:
    """Send SOURCE to the topics of the run in the environment. Continues where it was stopped. SIGUSR1 pauses."""
    from replay.send.epoch_barrier import free, lockstep  # noqa: PLC0415 - only this command pays for its imports
    from replay.send.replayer import send  # noqa: PLC0415 - the same
    from replay.send.virtual_clock import VirtualClock  # noqa: PLC0415 - the same

    settings = Settings()
    retrying(settings.patience_s)(topic_admin.require, settings)
    options = asked.options(
        speed=speed,
        epoch=epoch,
        exposures=exposures,
        start=start,
        end=end,
        limit=limit,
        users=users,
        loops=loops,
        on_error=on_error,
        seed=seed,
        faults=settings.faults,
    )
    plan = _prepare(source, options, folder or settings.state_dir)
    telemetry.serve(settings)
    HEALTH.needs("log")
    clock = VirtualClock(options.speed)
    signal.signal(signal.SIGUSR1, clock.toggle)
    with lockstep(settings) if settings.lockstep else nullcontext(free) as decide:
        result = send(settings, plan, decide=decide, clock=clock)
    console.print(f"{result.events_sent:,} events sent in {plan.epochs} epochs")


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's id or its --out folder")],
    as_of: Annotated[str | None, typer.Option(help="only what happened until then (ISO 8601 or epoch seconds)")] = None,
    release: Annotated[int | None, typer.Option(help="what this release would have scored on the same clicks")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Score every outcome of a run again, from the tables alone. Exit code 1 where a rank differs from online."""
    from streams.releases.release import ReleaseError  # noqa: PLC0415 - the same
    from streams.rescoring import rescore  # noqa: PLC0415 - only this command pays for its imports

    found = find(run)
    try:
        with console.status("scoring again") as status:
            result = rescore.rescore(
                found.engine,
                found.settings.run,
                as_of=asked.moment(as_of),
                release=release,
                progress=lambda done, of: status.update(f"scoring again: {done:,} of {of:,}"),
            )
    except ReleaseError as error:
        raise UserError(str(error)) from error
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result.metrics)) + b"\n")
    else:
        console.print(quality(by_variant(result.metrics), f"offline, run {found.settings.run}"))
    if release is None:
        console.print(f"{len(result.differences)} ranks differ from those given online")
        raise typer.Exit(1 if result.differences else 0)
    console.print(f"release {release} on the same clicks" + (" (hindsight)" if result.hindsight else ""))


def _given(source: str, *, plain: bool) -> Given | None:
    """Return what the run of an experiment begins with; None for others. `plain`: no option decides otherwise."""
    if not is_protocol(source):
        return None
    if not plain:
        raise UserError(
            "protocol: the experiment decides what is replayed, ranked and learnt; only --speed, --seed, --workers, "
            "--brokers, --database, --resume, --on-error and --out go with it"
        )
    from deploy.experiments.streaming.initial_release import given  # noqa: PLC0415 - only this source pays for its imports

    with console.status("reading what the experiment fitted"):
        return given(source)


def _named(source: str, resume: str | None, out: Path | None) -> tuple[str, Path]:
    if resume:
        found = find(resume)
        return found.settings.run, out or found.folder or Path("runs") / found.settings.run
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    name = f"{source.partition(':')[0]}-{moment}-{secrets.token_hex(2)}"
    folder = out or Path("runs") / name
    refuse_foreign(folder)
    return name, folder


def _prepare(source: str, options: Options, folder: Path) -> Plan:
    with console.status(f"reading {source}") as status:
        plan = prepare(
            parse(source), options, folder, progress=lambda what, rows: status.update(f"{what}: {rows:,} rows")
        )
    asked.tell_refused(plan, console)
    return plan


def _again(source: str, options: Options, folder: Path) -> list[str]:
    """Return the arguments with which a child replays what this process prepared in `folder`."""

    def iso(moment: int) -> str:
        return datetime.fromtimestamp(moment / 1000, UTC).isoformat()

    given: dict[str, Any] = {
        "--speed": options.speed or "max",
        "--epoch": options.epoch,
        "--exposures": options.exposures,
        "--from": None if options.start is None else iso(options.start),
        "--to": None if options.end is None else iso(options.end),
        "--limit": options.limit,
        "--users": options.users,
        "--loops": options.loops,
        "--seed": options.seed,
        "--on-error": options.on_error,
        "--folder": folder.resolve(),
    }
    return [source, *(text for name, value in given.items() if value is not None for text in (name, str(value)))]
