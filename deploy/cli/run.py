"""`mc2sf run`: the main job."""

from __future__ import annotations

import inspect
import re
import secrets
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.options import (
    MetricOption,
    ReplayOptions,
    VariantOption,
    epochs_between_retrains,
    flattened,
    for_embedded_broker,
    paced,
)
from deploy.cli.source_argument import SourceArgument, is_protocol, source_plugin
from deploy.console import terminal
from deploy.user_error import UserError

if TYPE_CHECKING:
    from deploy.experiments.streaming.initial_release import InitialRelease

console = terminal()


@flattened
def run(
    *,
    source: SourceArgument,
    options: ReplayOptions,
    lockstep: Annotated[
        bool,
        typer.Option(
            "--lockstep/--free",
            help="Synchronise all processes at each epoch, so that results are repeatable; or let them run freely, as "
            "in production.",
        ),
    ] = True,
    retrain_every: Annotated[
        str | None,
        typer.Option(
            help="Interval between retrains: a span of event time (1d) or a number of events (100000).  "
            "[default: ten retrains]"
        ),
    ] = None,
    threshold: Annotated[int, typer.Option(min=1, max=100, help="Exposures after which a window closes.")] = 10,
    evaluate: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="Share of clicks that are evaluated.  [default: 0.05]"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Number of device workers and of cloud workers.")] = 1,
    faults: Annotated[
        str,
        typer.Option(
            metavar="FAULT=SHARE,...",
            help="Simulated faults of the devices: shares for offline, reordered, skew, lost, duplicates and old, a "
            "number of devices for hostile. docs/faults.md",
            show_default=False,
        ),
    ] = "",
    candidates: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="Plugin that samples the negative candidates. docs/plugins.md"),
    ] = None,
    metric: MetricOption = None,
    variant: VariantOption = None,
    brokers: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT,...", help="Kafka bootstrap servers.  [default: start an embedded broker]"),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="SQLAlchemy URL of the database.  [default: SQLite in --out]", show_default=False
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Continue this interrupted run; needs --brokers.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the results.  [default: runs/RUN]")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, metavar="K", help="Repeat the run with K seeds from --seed on, in subfolders of --out."),
    ] = 1,
) -> None:
    """Replay SOURCE through all processes, and check the result.

    Ends with a table, `DIR/summary.json` and `DIR/report.html`. Exit code 0 only if every event that was sent was
    applied, and every rank is the same when it is computed again from the tables. Ctrl-C stops all processes; the
    space bar pauses and resumes.

    `protocol:SOURCE` replays what `mc2sf experiment ablation` ranked, with its candidate lists and fitted nets; exit
    code 0 then also means that every rank equals the one of the experiment.
    """
    arguments = locals()  # all of them: a run of --seeds is the same command with another seed and folder
    if seeds > 1:
        _run_seeds(arguments)
        return
    from pydantic import SecretStr

    from deploy.cli.data.commands import prepared, print_findings
    from deploy.local.forked_process import preloading
    from deploy.local.signals import Interrupts
    from deploy.runs import DATABASE, clear_run_folder, lock_folder, new_folder
    from replay.prepare.plan import write_plan
    from streams.database.engine import check_url, sqlite_url
    from streams.plugins.loaded import setting
    from streams.settings import Settings

    chosen_by_user = (evaluate, retrain_every, candidates, faults or None)
    only_defaults = threshold == 10 and lockstep and all(option is None for option in chosen_by_user)
    release = _initial_release(source, options, only_defaults=only_defaults)
    run_id, folder = _run_and_folder(source, resume, out)
    parsed = options.parsed(faults)
    others = (source_plugin(source, parsed.log_map), parsed.plugin)
    plugins = setting(
        metrics=metric, variants=variant, candidates=candidates, others=[plugin for plugin in others if plugin]
    )
    if database is not None:
        check_url(database)
    with new_folder(folder), lock_folder(folder):
        plan = prepared(source, parsed, folder.resolve(), console, resume=resume is not None)
        plan = paced(plan, options.speed, lockstep=lockstep)
        plan = plan if brokers else for_embedded_broker(plan)
        write_plan(plan)  # for the replayer
        print_findings(plan, console)
        url = database or sqlite_url((folder / DATABASE).resolve())
        chosen = {
            "evaluate": 0.05 if evaluate is None else evaluate,
            "threshold": threshold,
            "history_short": min(10, 2 * threshold),
            "retrain_every": epochs_between_retrains(retrain_every, plan),
        }
        settings = Settings(
            run=run_id,
            database=SecretStr(url),
            state_dir=folder.resolve() / "state",
            lockstep=lockstep,
            seed=options.seed,
            exposures=plan.policy,
            faults=str(plan.faults),
            plugins=plugins,
            **chosen | (release.settings if release else {}),
        )
        if resume and brokers is None:
            raise UserError("--resume needs --brokers: the embedded broker's log was lost when it stopped")
        interrupts = Interrupts()
        interrupts.install()
        if not resume:  # every option was valid: the earlier run in this folder can be deleted
            clear_run_folder(folder)
        try:
            with preloading() as preloader:
                from deploy.local.job import Job, execute  # while the preloader imports: both load torch

                job = Job(plan, settings, folder, workers, brokers, resume is not None, preloader, release)
                summary = execute(job, console, interrupts)
        except KeyboardInterrupt:
            next_step = "the embedded broker's log is lost, so the next run starts from the beginning"
            if brokers:
                next_step = f"continue with mc2sf run {source} --resume {run_id} --brokers {brokers} ..."
            console.print(f"\ninterrupted: every process was stopped; {next_step}.")
            raise typer.Exit(130) from None
        from deploy.report.terminal import show

        show(console, summary, folder)


def _run_seeds(arguments: dict[str, Any]) -> None:
    """Run the command once per seed; a seed whose run is finished is kept."""
    from deploy.analysis.seeds import run_seeds, table

    source, options, out = arguments["source"], arguments["options"], arguments["out"]
    if arguments["resume"] or out is None:
        raise UserError("--seeds needs --out, and continues by itself: it can't be used with --resume")
    once = inspect.unwrap(run)

    def of_seed(seed: int, folder: Path) -> None:
        console.print(f"seed {seed}: {folder}", soft_wrap=True)
        once(**arguments | {"options": replace(options, seed=seed), "out": folder, "seeds": 1})

    usual = {name: each.default for name, each in inspect.signature(once).parameters.items()} | asdict(type(options)())
    given = arguments | asdict(options)
    decisive = {
        name: str(value)
        for name, value in given.items()
        if value != usual.get(name) and name not in {"source", "out", "seed", "seeds", "options"}
    }
    try:
        result = run_seeds(out, source, decisive, range(options.seed, options.seed + arguments["seeds"]), of_seed)
    except typer.Exit:
        console.print("finished seeds are kept: the same command continues with the others")
        raise
    console.print(table(result.online, result.finished, "online = offline, all outcomes"))
    console.print(table(result.last_quarter, result.finished, "the newest quarter of the outcomes"))


def _initial_release(source: str, options: ReplayOptions, *, only_defaults: bool) -> InitialRelease | None:
    """Return the initial release of an experiment's stream; None for other sources.

    Raises UserError if an option contradicts the experiment.
    """
    if not is_protocol(source):
        return None
    if not only_defaults or options != ReplayOptions(on_error=options.on_error, seed=options.seed, speed=options.speed):
        raise UserError(
            "protocol: the experiment decides what is replayed, ranked and learnt; only --speed, --seed, --workers, "
            "--brokers, --database, --resume, --on-error and --out go with it"
        )
    from deploy.experiments.streaming.initial_release import initial_release

    with console.status("reading the fits of the experiment"):
        return initial_release(source)


def _run_and_folder(source: str, resume: str | None, out: Path | None) -> tuple[str, Path]:
    """Return the id and the folder of the run. Raises UserError if the folder has other contents."""
    from deploy.runs import check_run_folder, find

    if resume:
        found = find(resume)
        return found.settings.run, out or found.folder or Path("runs") / found.settings.run
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    scheme = re.sub(r"[^a-z0-9]+", "-", source.partition(":")[0].lower()).strip("-")[:18] or "run"
    name = f"{scheme}-{moment}-{secrets.token_hex(2)}"
    folder = out or Path("runs") / name
    check_run_folder(folder)
    return name, folder
