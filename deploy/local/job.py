"""The main job: broker, workers, replay, retraining and metrics as one run that accounts for every event.

Flow: prepare the log (sorted once) -> stack up -> `mc2sf replay` as a child -> wait until the recorder has seen the end
of every partition -> stop the workers -> score everything again from the tables -> summary.json and report.html.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa
from rich.console import Console

from deploy.local.broker import await_broker
from deploy.local.pause_key import pause_on_space
from deploy.local.progress import Watch
from deploy.local.signals import Interrupts
from deploy.local.supervisor import Child, Stack
from deploy.report import html
from deploy.report.measurements import Measured, summarise
from deploy.report.summary import Experiment, Summary, by_variant
from deploy.runs import RunFailed, agree, software, write_run_file
from replay.json_file import write_json
from replay.prepare.plan import Options, Plan
from replay.send import progress
from replay.send.fault_injection import FaultInjection
from replay.send.replayer import digest as plan_digest
from replay.sources import synthetic_optimum
from streams.database import run_state, schema
from streams.database.engine import connect
from streams.kafka import topic_admin
from streams.process.retry import retrying
from streams.releases import registry
from streams.rescoring import rescore
from streams.settings import Settings

if TYPE_CHECKING:
    from deploy.experiments.streaming.initial_release import Given


@dataclass(frozen=True)
class Job:
    """What one run is asked to do. `brokers` None: the embedded one; `given`: it begins with an experiment's nets."""

    source: str
    options: Options
    settings: Settings
    out: Path
    workers: int
    brokers: str | None
    resume: bool
    given: Given | None = None


def _start(stack: Stack, job: Job, settings: Settings, replay_arguments: list[str]) -> Child:
    stack.add("coordinator", ["coordinator"], settings)
    stack.add("recorder", ["recorder"], settings)
    for number in range(1, job.workers + 1):
        stack.add(f"cloud-{number}", ["worker", "cloud"], settings)
        stack.add(f"device-{number}", ["worker", "device"], settings)
    if not settings.frozen:
        stack.add("learner", ["learner"], settings)
        stack.add("retrain", ["retrain", "--every"], settings)
    return stack.add("replay", ["replay", *replay_arguments], settings, restart=False)


def _over(engine: sa.Engine, settings: Settings) -> bool:
    """Whether all is recorded and, in lockstep, the last epoch decided: a late learner still has its release."""
    with engine.connect() as connection:
        recorded = run_state.recorded(connection, settings.run)
        if recorded is None or not recorded[1] or not settings.lockstep:
            return recorded is not None and recorded[1]
        decided = run_state.last_decision(connection, settings.run)
    return decided is not None and decided.epoch >= recorded[0]


def execute(job: Job, plan: Plan, replay_arguments: list[str], console: Console, interrupts: Interrupts) -> Summary:
    """Run the job; return its summary. Raises RunFailed where something sent is not accounted for."""
    job.out.mkdir(parents=True, exist_ok=True)
    with Stack(job.out / "logs") as stack:
        brokers = job.brokers or stack.add_broker()
        settings = job.settings.model_copy(update={"brokers": brokers})
        if job.brokers is None:
            await_broker(brokers)
        begin = retrying(settings.patience_s, meanwhile=interrupts.check)
        engine = begin(connect, settings.database.get_secret_value())
        agree(settings, engine, job.source, fresh=not job.resume)
        write_run_file(job.out, settings, job.source)
        if job.given is not None and not job.resume:
            with engine.begin() as connection:  # the coordinator finds it half done, and publishes it
                registry.write_release(connection, settings.run, job.given.draft)
        begin(topic_admin.create, settings)
        begin(topic_admin.require, settings)
        began = time.monotonic()
        replayer = _start(stack, job, settings, replay_arguments)
        with pause_on_space(replayer), Watch(console, engine, settings, stack, plan.events, plan.epochs) as watch:
            patient = retrying(settings.patience_s, meanwhile=stack.watch)
            while not patient(_over, engine, settings):
                interrupts.check()
                stack.watch()
                patient(watch.look)
                time.sleep(0.1)
            seconds = time.monotonic() - began
            patient(watch.look, now=True)
        return retrying(settings.patience_s)(_account, job, plan, engine, stack, settings, seconds, console)


def _account(
    job: Job, plan: Plan, engine: sa.Engine, stack: Stack, settings: Settings, seconds: float, console: Console
) -> Summary:
    for child in stack.children.values():
        child.scrape()
    samples = [child.samples for child in stack.children.values()]
    for child in reversed(stack.children.values()):
        if child.name != "broker":
            child.measure()
            stack.stop(child)
    again = _rescore(engine, settings.run, console)
    with engine.connect() as connection:
        unlike = job.given.differences(connection, settings.run) if job.given else []
        measured = Measured(
            source=job.source,
            events_sent=plan.events,
            seconds=seconds,
            samples=samples,
            offline=by_variant(again.metrics),
            offline_differences=len(again.differences),
            optimum=synthetic_optimum.of_source(job.source),
            experiment=Experiment(job.given.metrics, len(unlike)) if job.given else None,
            faults=_faults(job, plan),
            workers=job.workers,
            peak_memory_mb={n: round(c.peak_memory / 1e6, 1) for n, c in stack.children.items()},
            restarts={n: c.deaths for n, c in stack.children.items() if c.deaths},
            versions=software(),
        )
        document = summarise(connection, settings, measured)
    to_refuse = FaultInjection(plan.faults, plan.seed).hostile_records(plan.epochs)
    failures = _failures(document, again.differences, unlike, to_refuse)
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


def _rescore(engine: sa.Engine, run: str, console: Console) -> rescore.OfflineResult:
    with console.status("scoring every outcome again from the tables") as status:

        def progress(done: int, of: int) -> None:
            status.update(f"scoring every outcome again from the tables: {done:,} of {of:,}")

        return rescore.rescore(engine, run, progress=progress)


def _faults(job: Job, plan: Plan) -> dict[str, int] | None:
    """What the devices' faults did: events by fault, late clicks, records of hostile devices; None: no faults."""
    if not str(plan.faults):
        return None
    sent = progress.load(job.settings.state_dir / "replay", plan_digest(plan))
    on_the_way = {fault: plan.loops * events for fault, events in plan.fault_counts.items()}
    return on_the_way | (sent.fault_counts if sent else {})


def _failures(document: Summary, differences: Sequence[object], unlike: Sequence[object], to_refuse: int) -> list[str]:
    failures = []
    if document.dead_letters < 2 * to_refuse:  # by the devices and by the recorder
        failures.append(f"{to_refuse:,} records were to be refused, there are {document.dead_letters:,} dead letters")
    if document.events_applied != document.events_sent:
        failures.append(f"{document.events_sent:,} events sent, {document.events_applied:,} applied")
    if differences:
        failures.append(f"{len(differences)} ranks differ when scored again, the first: {differences[0]}")
    if document.online != document.offline:
        failures.append("online and offline metrics differ")
    if unlike:
        failures.append(f"{len(unlike)} times the experiment has something else, the first: {unlike[0]}")
    return failures
