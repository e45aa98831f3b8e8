"""The main job: broker, workers, replay, retraining and metrics as one run that accounts for every event.

Flow: the prepared plan -> start the processes -> `mc2sf replay --prepared` as a child -> wait until the recorder has
recorded the end of every partition -> stop the processes -> score everything again from the tables -> summary.json and
report.html.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa
from rich.console import Console

from deploy.dashboard.serving import live_page, print_address
from deploy.local.broker import await_broker, chosen_settings
from deploy.local.child_process import Child
from deploy.local.early_rescoring import STATUS, EarlyRescoring
from deploy.local.forked_process import Preloader
from deploy.local.pause_key import pause_on_space
from deploy.local.progress import ProgressDisplay
from deploy.local.requirements import print_requirements, requirements
from deploy.local.signals import Interrupts
from deploy.local.supervisor import Supervisor
from deploy.report import html, measurements
from deploy.report.measurements import Measured, summarise
from deploy.report.summary import Experiment, Summary, by_variant
from deploy.runs import FoundRun, RunFailed, register_run, software, write_run_file
from replay.json_file import write_json
from replay.prepare.plan import Plan
from replay.send import progress
from replay.send.fault_injection import FaultInjection
from replay.send.replayer import digest as plan_digest
from replay.send.sorted_log import events_by_user
from replay.sources.synthetic import optimum as synthetic_optimum
from streams.database import run_state, schema
from streams.database.changes import DatabaseChanges
from streams.database.engine import connect
from streams.kafka import topic_admin
from streams.process.retry import retrying
from streams.releases import registry
from streams.rescoring import rescore
from streams.settings import Settings

if TYPE_CHECKING:
    from deploy.experiments.streaming.initial_release import InitialRelease


_TRAINING_NICENESS = 10  # on a shared core the stream comes first: its latency is what users notice
_LOOK_S = 0.25  # between two looks at the processes and the database


@dataclass(frozen=True)
class Job:
    """A run to execute. `brokers` None: the embedded one; `initial_release`: that of an experiment, else None."""

    plan: Plan
    settings: Settings
    out: Path
    workers: int
    brokers: str | None
    resume: bool
    preloader: Preloader | None = None
    initial_release: InitialRelease | None = None


def _start(supervisor: Supervisor, job: Job, settings: Settings, interrupts: Interrupts) -> Child:
    """Start the processes and return the replayer. Free-running it starts when the others are ready to receive."""
    supervisor.add("coordinator", ["coordinator"], settings)
    supervisor.add("recorder", ["recorder"], settings)
    for number in range(1, job.workers + 1):
        supervisor.add(f"cloud-{number}", ["worker", "cloud"], settings)
        supervisor.add(f"device-{number}", ["worker", "device"], settings)
    if not settings.frozen:
        niceness = 0 if settings.lockstep else _TRAINING_NICENESS  # in lockstep the stream waits for them
        supervisor.add("learner", ["learner"], settings, niceness=niceness)
        supervisor.add("retrain", ["retrain", "--every"], settings, niceness=niceness)
    while not settings.lockstep and not supervisor.ready():
        interrupts.check()
        supervisor.check()
        time.sleep(0.2)
    return supervisor.add("replay", ["replay", "--prepared", job.plan.folder], settings, restart=False)


def _is_over(engine: sa.Engine, settings: Settings) -> bool:
    """Return True if everything is recorded and, in lockstep, every epoch is decided, also about the last release."""
    with engine.connect() as connection:
        if not settings.lockstep:
            return run_state.all_recorded(connection, settings.run)
        return registry.all_decided(connection, settings)


def execute(job: Job, console: Console, interrupts: Interrupts) -> Summary:
    """Run the job and return its summary. Raises RunFailed if the checks of the result fail."""
    job.out.mkdir(parents=True, exist_ok=True)
    if job.brokers is None:
        print_requirements(requirements(job.plan, job.settings, job.workers), job.out, console)
    with Supervisor(job.out / "logs", job.preloader) as supervisor:
        brokers = job.brokers or supervisor.add_broker()
        settings = job.settings.model_copy(update={"brokers": brokers})
        if job.brokers is None:
            settings = settings.model_copy(update=chosen_settings(job.plan, job.settings, job.workers))
            await_broker(brokers)
        retry = retrying(settings.patience_s, meanwhile=interrupts.check)
        engine = retry(connect, settings.database.get_secret_value())
        register_run(settings, engine, job.plan.source, fresh=not job.resume)
        write_run_file(job.out, settings, job.plan.source, job.plan.identity.log_map)
        if job.initial_release is not None and not job.resume:
            with engine.begin() as connection:  # the coordinator finds it unpublished, and publishes it
                registry.write_release(connection, settings.run, job.initial_release.draft)
        retry(topic_admin.create, settings)
        retry(topic_admin.require, settings)
        replayer = _start(supervisor, job, settings, interrupts)
        began = time.monotonic()
        display = ProgressDisplay(console, engine, settings, supervisor, job.plan)
        page = live_page(FoundRun(settings, engine, job.out, job.plan.source))
        with page as address, pause_on_space(replayer), display, DatabaseChanges(engine) as changes:
            print_address(console, address)
            with_retries = retrying(settings.patience_s, meanwhile=supervisor.check)
            early: EarlyRescoring | None = None
            while True:
                if with_retries(changes.changed):
                    if with_retries(_is_over, engine, settings):
                        break
                    early = early or with_retries(EarlyRescoring.start, engine, settings, supervisor)
                interrupts.check()
                supervisor.check()
                with_retries(display.refresh)
                time.sleep(_LOOK_S)
            seconds = time.monotonic() - began
            with_retries(display.refresh, now=True)
        return retrying(settings.patience_s)(_conclude, job, engine, supervisor, settings, seconds, console, early)


def _conclude(
    job: Job,
    engine: sa.Engine,
    supervisor: Supervisor,
    settings: Settings,
    seconds: float,
    console: Console,
    early: EarlyRescoring | None,
) -> Summary:
    """Stop the processes, rescore the run, write summary and report. Raises RunFailed if a check fails."""
    devices = [child for name, child in supervisor.children.items() if name.startswith("device-")]
    samples = [child.samples if child.scrape() else None for child in devices]
    supervisor.measure()
    supervisor.stop()
    again = (early and early.result(console)) or _rescore(engine, settings.run, console)
    with engine.connect() as connection:
        deviations = job.initial_release.differences(connection, settings.run) if job.initial_release else []
        forgotten_users = run_state.forgotten_users(connection, settings.run)
        measured = Measured(
            source=job.plan.source,
            log=job.plan.description,
            events_sent=job.plan.events,
            forgotten_users=forgotten_users,
            events_forgotten=_events_forgotten(connection, job.plan, settings.run, forgotten_users),
            seconds=seconds,
            samples=samples,
            offline=by_variant(again.metrics),
            offline_differences=len(again.differences),
            plugin_metrics=again.plugin_metrics,
            optimum=synthetic_optimum.of_source(job.plan.source),
            experiment=Experiment(job.initial_release.metrics, len(deviations)) if job.initial_release else None,
            faults=_faults(job),
            workers=job.workers,
            peak_memory_mb={name: round(used / 1e6, 1) for name, used in supervisor.peak_memory.items()},
            restarts={n: c.deaths for n, c in supervisor.children.items() if c.deaths},
            versions=software(),
        )
        document = summarise(connection, settings, measured)
    hostile = FaultInjection(job.plan.faults, job.plan.seed).hostile_records(job.plan.epochs)
    failures = _failures(document, again.differences, deviations, hostile, forgotten_users)
    with engine.begin() as connection:
        connection.execute(
            sa.update(schema.runs)
            .where(schema.runs.c.run == settings.run)
            .values(status="failed" if failures else "finished", summary=msgspec.to_builtins(document))
        )
    write_json(job.out / "summary.json", document)
    html.write(document, engine, settings.run, job.out / "report.html")
    if failures:
        raise RunFailed("; ".join(failures))
    return document


def _events_forgotten(connection: sa.Connection, plan: Plan, run: str, forgotten_users: int) -> int:
    if not forgotten_users:
        return 0
    sent = {user: plan.loops * n for user, n in events_by_user(plan.path, plan.contents.rows).items()}
    return measurements.events_forgotten(Counter(sent), measurements.events_applied(connection, run), forgotten_users)


def _rescore(engine: sa.Engine, run: str, console: Console) -> rescore.OfflineResult:
    with console.status(STATUS) as status:

        def progress(done: int, of: int) -> None:
            status.update(f"{STATUS}: {done:,} of {of:,}")

        return rescore.rescore(engine, run, progress=progress)


def _faults(job: Job) -> dict[str, int] | None:
    """Return the effects of faults: events by fault, late clicks, records of hostile devices; None without faults."""
    if not str(job.plan.faults):
        return None
    sent = progress.load(job.settings.state_dir / "replay", plan_digest(job.plan))
    before_sending = {fault: job.plan.loops * events for fault, events in job.plan.fault_counts.items()}
    return before_sending | (sent.fault_counts if sent else {})


def _failures(
    document: Summary,
    differences: Sequence[object],
    deviations: Sequence[object],
    hostile: int,
    forgotten_users: int,
) -> list[str]:
    failures = []
    if document.dead_letters < 2 * hostile:  # by the devices and by the recorder
        failures.append(
            f"{hostile:,} hostile records were sent, but there are only {document.dead_letters:,} dead letters"
        )
    # free-running, gateways may send more: a repeat is never counted, since events are numbered
    accounted = document.events_applied + document.events_forgotten
    more = accounted > document.events_sent and not document.settings["lockstep"]
    if accounted != document.events_sent and not more:
        forgotten = f", {document.events_forgotten:,} forgotten" if document.events_forgotten else ""
        failures.append(f"{document.events_sent:,} events sent, {document.events_applied:,} applied{forgotten}")
    if not forgotten_users:  # others were ranked with clicks that are gone
        failures += _online_differences(document, differences)
    if not document.settings["lockstep"]:
        failures += _missing_training(document)
    if deviations:
        failures.append(f"{len(deviations)} values differ from the experiment, the first: {deviations[0]}")
    return failures


def _online_differences(document: Summary, differences: Sequence[object]) -> list[str]:
    """Return how online and offline ranks and metrics differ; empty if they are equal."""
    found = []
    if differences:
        found.append(f"{len(differences)} ranks differ when scored again, the first: {differences[0]}")
    by_plugins = [each for of_metric in document.plugin_metrics.values() for each in of_metric.values()]
    if document.online != document.offline or any(each.online != each.offline for each in by_plugins):
        found.append("online and offline metrics differ")
    return found


def _missing_training(document: Summary) -> list[str]:
    """Return the reasons why the quality of a free-running run says nothing; empty if it says something."""
    found, settings = [], document.settings
    if settings["evaluate"] and not document.online:
        found.append(f"no click was ranked: no release in force knew the items of the {document.outcomes:,} drawn")
    if not settings["frozen"] and not any(entry.kind == "retrain" for entry in document.releases):
        found.append("no retrain came into force: replay the log more slowly (--speed), or more of it")
    return found
