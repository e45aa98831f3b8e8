"""Whole runs (`mc2sf run`) on a real Apache Kafka, as processes, and their comparison with an undisturbed run."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from rich.progress import Progress

from benchmarks.servers.kafka import Cluster
from deploy.local.child_process import die_with_parent
from deploy.runs import find
from streams.database.run_state import recorded
from streams.database.schema import interactions, outcomes, progress
from streams.process.retry import is_outage
from streams.rescoring.rescore import rescore
from streams.verification.differences import DifferenceFound
from streams.verification.verify import verify

SOURCE = "synthetic:users=60,items=105,clicks=45,groups=6,favourites=1"  # few groups: so few clicks suffice to learn
ARGUMENTS = ("--limit", "3000", "--epoch", "300", "--retrain-every", "900", "--evaluate", "0.5")
ROLES = {
    "device": "worker device",
    "cloud": "worker cloud",
    "recorder": "recorder",
    "learner": "learner",
    "coordinator": "coordinator",
    "retrain": "retrain --every",
    "replay": "replay",
}


class Run:
    """One `mc2sf run` as a process, with its children found by their command lines."""

    def __init__(
        self,
        out: Path,
        cluster: Cluster,
        *more: str,
        source: str = SOURCE,
        arguments: tuple[str, ...] = ARGUMENTS,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.out, self.log = out, out.with_name(out.name + ".log")  # the run's folder must contain only the run
        command = [sys.executable, "-m", "deploy.cli", "run", source, *arguments]
        command += ["--brokers", cluster.addresses, "--out", str(out), *more]
        copies = {"MC2SF_REPLICATION": str(len(cluster.nodes))}
        out.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                stdout=output,
                stderr=output,
                env=os.environ | copies | dict(environment or {}),
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call of libc, no Python lock is taken
            )

    def processes(self, role: str) -> list[psutil.Process]:
        """Return the running processes of a role, the oldest first."""
        with suppress(psutil.Error):
            running = psutil.Process(self.process.pid).children()
            found = [each for each in running if f"deploy.cli {ROLES[role]}" in " ".join(each.cmdline())]
            return sorted(found, key=psutil.Process.create_time)
        return []

    def epoch(self) -> int:
        """Return the last recorded epoch; -1 if there is none or the database does not answer."""
        if not (self.out / "run.json").is_file():
            return -1
        try:
            found = find(str(self.out))
            with found.engine.connect() as connection:
                row = recorded(connection, found.settings.run)
            found.engine.dispose()
        except (sa.exc.SQLAlchemyError, OSError) as error:
            if is_outage(error):
                return -1
            raise
        return row[0] if row else -1

    def until(self, epoch: int) -> None:
        """Wait until an epoch is recorded. Raises RuntimeError if the run ends before."""
        while self.epoch() < epoch:
            if self.process.poll() is not None:
                raise RuntimeError(f"the run ended before epoch {epoch}: {self.log.read_text()[-600:]}")
            time.sleep(0.1)

    def wait(self, seconds: float) -> str:
        """Wait for the end. Return an error message, empty if the run succeeded."""
        try:
            code = self.process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            self.stop()
            return f"not over after the {seconds:.0f} s that it had left"
        return "" if code == 0 else f"exit code {code}: {self.log.read_text()[-600:]}"

    def stop(self) -> None:
        """Stop the run with SIGINT, and kill it if that takes too long."""
        self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        self.process.kill()
        self.process.wait()


def accounted(out: Path) -> set[tuple[Any, ...]]:
    """Return the ranked (user, seq) of a run, and the number of applied events of each user."""
    found = find(str(out))
    o, i = outcomes.c, interactions.c
    mine = i.run == found.settings.run
    events = sa.select(i.user, sa.func.count(), sa.func.max(i.seq)).where(mine).group_by(i.user)
    with found.engine.connect() as connection:
        ranked = connection.execute(sa.select(o.user, o.seq, o.ranks).where(o.run == found.settings.run)).all()
        applied = connection.execute(events).all()
    found.engine.dispose()
    return {("outcome", user, seq, json.dumps(ranks, sort_keys=True)) for user, seq, ranks in ranked} | {
        ("events", *row) for row in applied
    }


def compared(out: Path, reference: Path) -> dict[str, Any]:
    """Return outcomes and events lost and doubled against the undisturbed run, and both digests; None without data."""
    row: dict[str, Any] = {"lost": None, "doubled": None, "digest": None}
    row["expected"] = json.loads((reference / "summary.json").read_text())["digest"]
    if (out / "run.json").is_file():
        came, wanted = accounted(out), accounted(reference)
        row |= {"lost": len(wanted - came), "doubled": len(came - wanted)}
    if (out / "summary.json").is_file():
        row["digest"] = json.loads((out / "summary.json").read_text())["digest"]
    return row


def scored_again(out: Path, reference: Path) -> dict[str, Any]:
    """Return events lost and doubled of a free-running run, ranks that differ when scored again, what verify finds.

    Which clicks have no other candidate, and so no outcome, depends on the course of the run: their sum is compared.
    """
    row: dict[str, Any] = {"lost": None, "doubled": None, "outcomes": None, "differing": None, "verified": None}
    if (out / "run.json").is_file():
        came, wanted = counted(out), counted(reference)
        row |= {"lost": len(wanted - came), "doubled": len(came - wanted)}
    if (out / "summary.json").is_file():
        found = find(str(out))
        again = rescore(found.engine, found.settings.run, processes=1)
        row |= {"outcomes": again.outcomes, "differing": len(again.differences), "verified": True}
        try:
            verify(found.engine, found.settings)
        except DifferenceFound as difference:
            row["verified"] = str(difference)
        found.engine.dispose()
    return row


def counted(out: Path) -> set[tuple[Any, ...]]:
    """Return the number of applied events of each user, and that of clicks that were to be ranked."""
    events = {row for row in accounted(out) if row[0] == "events"}
    found = find(str(out))
    with found.engine.connect() as connection:
        ranked = sa.select(sa.func.count()).where(outcomes.c.run == found.settings.run)
        alone = sa.select(progress.c.not_ranked).where(progress.c.run == found.settings.run)
        total = connection.execute(ranked).scalar_one() + (connection.execute(alone).scalar() or 0)
    found.engine.dispose()
    return events | {("clicks", total)}


def good(row: dict[str, Any]) -> bool:
    """Return True if the run equals the undisturbed one; free-running, if its own record explains every rank."""
    if "verified" in row:
        return (row["lost"], row["doubled"], row["differing"], row["verified"], row.get("error")) == (
            0,
            0,
            0,
            True,
            None,
        )
    return not row["lost"] and not row["doubled"] and row["digest"] == row["expected"]


def kafka_home(parser: argparse.ArgumentParser) -> Path:
    """The folder of the Apache Kafka to run on; exits with the parser's error if there is none."""
    home = os.environ.get("KAFKA_HOME")
    if home is None:
        parser.error("KAFKA_HOME is not set: this needs a real Apache Kafka")
    return Path(home)


def watch(what: str, total: int, rows: Iterable[dict[str, Any]], keep: Callable[[dict[str, Any]], object]) -> None:
    """Write rows to the result as they come, with a progress bar. Return the bad ones."""
    with Progress() as progress:
        task = progress.add_task(f"{what}s", total=total)
        for row in rows:
            keep(row)
            progress.advance(task)
            if not good(row):
                progress.console.print(f"[red]{what} {row[what]}[/red]: {row}", highlight=False)
