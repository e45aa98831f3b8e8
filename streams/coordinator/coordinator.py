"""The coordinator: the only process that reviews release candidates, publishes releases and decides epochs.

In: progress of the recorder, release candidates of learner and retrain (tables). Out: releases and one decision per
epoch (tables, then Kafka). After a crash at any point the next holder of the lease finds unfinished work in the tables
and finishes it.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import get_args

import sqlalchemy as sa
import torch
from sqlalchemy import Connection, Engine

from models.data.catalogue import FIRST_ROW, Catalogue
from models.mc2sf.checkpoint import pack
from models.mc2sf.nets import Nets
from streams.coordinator.lease import Lease, LeaseLostError
from streams.coordinator.publisher import PublicationError, Publisher, read_publication
from streams.coordinator.review import Active, Outcome, Review, review
from streams.database import run_state, schema
from streams.database.changes import DatabaseChanges
from streams.database.schema import releases
from streams.kafka import clients
from streams.model_config import net_config
from streams.process import telemetry
from streams.process.health import HEALTH
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.process.service_loop import run_through_outages, service
from streams.release_records import EpochDecision, Manifest
from streams.releases import candidates, registry
from streams.releases.candidates import EMPTY, WAITING, ReleaseCandidate
from streams.releases.item_statistics import counts_of
from streams.releases.registry import Draft
from streams.releases.release import ItemTable
from streams.releases.retention import PartRetention
from streams.releases.retrain_schedule import learner_delay, left_over_retrain, retrain_delay, retrain_due
from streams.settings import Settings

log = logging.getLogger(__name__)
ROLE = "coordinator"
POLL_S = 0.005
_WAIT_FOR_LEASE_S = 0.5
_REPORT_AFTER_S = 30.0


class Coordinator:
    """The work of the lease's holder, one `step` at a time."""

    def __init__(self, settings: Settings, engine: Engine, lease: Lease, publisher: Publisher) -> None:
        self._settings, self._run = settings, settings.run
        self._engine, self._lease, self._publisher = engine, lease, publisher
        self._delays = {"retrain": retrain_delay(settings), "learner": learner_delay(settings)}
        self._active: Active | None = None
        self._version: int | None = None  # of the release in force; None: not read since an unfinished one was seen
        self._retention = PartRetention(settings.run)
        self._waiting_since = time.monotonic()
        with engine.connect() as connection:
            last = run_state.last_decision(connection, self._run)
            written = connection.execute(
                sa.select(sa.func.max(releases.c.created_wall)).where(releases.c.run == self._run)
            )
            telemetry.RELEASE_TIME.set((written.scalar_one() or 0) / 1000)
        for outcome in get_args(Outcome):
            telemetry.RELEASES.labels(outcome)  # at 0, so that `increase` counts the first decision too
        self._decided = last.epoch if last else -1
        if last is not None:  # a crash between the table and Kafka may have left it unpublished
            self._publish(last)

    def step(self) -> bool:
        """Do what is due next; return False if nothing is. Raises LeaseLostError, PublicationError."""
        self._lease.renew_if_due()
        if self._version is not None:  # no other process writes releases while this one has the lease
            return self._review(self._version)
        with self._engine.connect() as connection:
            unfinished = registry.unpublished(connection, self._run)
            active = run_state.active_release(connection, self._run)
        if unfinished is not None:
            self._finish(unfinished)
        elif active is None:
            self._write_release_0()
        else:
            self._version = active
        return True

    def is_finished(self) -> bool:
        """Return True if the log has ended, every epoch is decided, and no retrain is left to review."""
        with self._engine.connect() as connection:
            return registry.all_decided(connection, self._settings)

    def _write_release_0(self) -> None:
        """Write release 0: a seeded initialisation with an empty catalogue."""
        nets = Nets.initial(net_config(self._settings), FIRST_ROW, self._settings.seed)
        items = ItemTable.of(Catalogue([]), nets.encoder.E.detach().numpy())
        draft = Draft("initial", None, -1, pack(nets), items, 0, {}, {"reason": "seeded initialisation"})
        with self._engine.begin() as connection:
            self._lease.renew(connection)
            manifest = registry.write_release(connection, self._run, draft)
        self._finish(manifest.version)

    def _review(self, version: int) -> bool:
        """Review the candidates if the epoch is ready, or some at once; return False if neither is due.

        At once: free-running a rollback; in lockstep a retrain that is due only after the end of the log.
        """
        epoch = self._decided + 1
        with self._engine.connect() as connection:
            recorded = run_state.recorded(connection, self._run)
            if self._settings.lockstep and (recorded is None or (recorded[0] < epoch and not recorded[1])):
                self._report(epoch, ["the recorder"])  # most looks end here
                return False
            waiting = self._waiting(connection, epoch)
            ready = self._ready(recorded, epoch, waiting)
            early = [] if self._settings.lockstep else [each for each in waiting if each.kind == "rollback"]
            if (left := self._left_over(recorded)) is not None:
                t = schema.proposals.c
                this = (t.kind == "retrain") & (t.epoch == left) & (t.status == WAITING)
                early = candidates.read(connection, self._run, this, data=False)
            if not ready and not early:
                return False
            reviewed = [candidates.complete(connection, self._run, each) for each in (waiting if ready else early)]
            if self._active is None or self._active.manifest.version != version:
                self._active = Active.read(connection, self._run, version, self._active)
            at_once = not ready  # no epoch ends by it
            result = review(connection, self._settings, self._active, self._decided if at_once else epoch, reviewed)
        self._settle(EpochDecision(epoch, version, result.outcome, result.reason), result, at_once=at_once)
        return True

    def _settle(self, decision: EpochDecision, result: Review, *, at_once: bool) -> None:
        """Write the result of a review, and publish it. `decision` is for the case that no candidate was accepted."""
        with self._engine.begin() as connection:
            self._lease.renew(connection)
            manifest = None
            if result.draft is not None:
                manifest = registry.write_release(connection, self._run, result.explained())
            for candidate, status, reason in result.statuses:
                candidates.mark(connection, self._run, candidate, status, reason)
            if any(candidate.kind == "retrain" for candidate, _, _ in result.statuses):
                t = schema.proposals.c
                candidates.forget(connection, self._run, (t.kind == "retrain") & (t.status != WAITING))
            if manifest is None and not at_once:
                registry.write_decision(connection, self._run, decision)
        if manifest is not None:
            self._finish(manifest.version)
        elif not at_once:
            self._after_decision(decision)

    def _finish(self, version: int) -> None:
        """Publish a release that is in the tables, mark it as published, and decide the epoch that it ends."""
        self._version = None
        with self._engine.connect() as connection:
            publication = read_publication(connection, self._run, version)
            manifest = publication.manifest
        self._publisher.publish(publication)
        with self._engine.begin() as connection:
            self._lease.renew(connection)
            registry.finish_release(connection, self._run, version)
            decision = self._decision_on(connection, manifest)
            if decision is not None:
                registry.write_decision(connection, self._run, decision)
        telemetry.RELEASE.labels(ROLE).set(version)
        telemetry.RELEASE_TIME.set_to_current_time()
        log.info("release %d (%s) is published with %d rows of E", version, manifest.kind, len(publication.rows))
        if decision is not None:
            self._after_decision(decision)
        self._version = version

    def _decision_on(self, connection: Connection, manifest: Manifest) -> EpochDecision | None:
        """Return the decision that belongs to a release: None for release 0 and for a rollback between two epochs."""
        if manifest.kind == "initial" or manifest.epoch <= self._decided:
            return None
        t = releases.c
        this = (t.run == self._run) & (t.version == manifest.version)
        reason = connection.execute(sa.select(t.gate).where(this)).scalar_one()["reason"]
        return EpochDecision(manifest.epoch, manifest.version, manifest.kind, reason)

    def _after_decision(self, decision: EpochDecision) -> None:
        self._publish(decision)
        self._decided = decision.epoch
        self._waiting_since = time.monotonic()
        telemetry.EPOCH.labels(ROLE).set(decision.epoch)
        telemetry.RELEASES.labels(decision.outcome).inc()
        log.info("epoch %d: %s, release %d: %s", decision.epoch, decision.outcome, decision.release, decision.reason)
        self._lease.renew_if_due()
        with self._engine.connect() as connection:
            expired = self._retention.expired(connection, decision.epoch)
        self._publisher.withdraw(expired)

    def _publish(self, decision: EpochDecision) -> None:
        with self._engine.connect() as connection:
            counts = counts_of(connection, self._run, decision.epoch)
        self._publisher.decide(decision, counts)

    def _waiting(self, connection: Connection, epoch: int) -> list[ReleaseCandidate]:
        """Return the candidates to review at the end of `epoch`: due ones, rollbacks and, free-running, any retrain.

        Without their bytes: most looks find that something else is missing.
        """
        t = schema.proposals.c
        due = [(t.kind == kind) & (t.epoch == epoch - delay) for kind, delay in self._delays.items()]
        whenever = ("rollback",) if self._settings.lockstep else ("rollback", "retrain")
        mine = sa.or_(t.kind.in_(whenever), *due)
        return candidates.read(connection, self._run, mine & t.status.in_((WAITING, EMPTY)), data=False)

    def _left_over(self, recorded: tuple[int, bool] | None) -> int | None:
        """Return the epoch of a retrain whose decision is due only after the end of the log, if all else is decided."""
        if recorded is None or not recorded[1] or self._decided < recorded[0]:
            return None
        return left_over_retrain(self._settings, self._decided)

    def _ready(self, recorded: tuple[int, bool] | None, epoch: int, waiting: list[ReleaseCandidate]) -> bool:
        """Return True if everything that the decision of `epoch` needs is there."""
        missing = []
        if recorded is None or recorded[0] < epoch:
            missing.append("the recorder")
        kinds = {each.kind for each in waiting if each.epoch == epoch - self._delays.get(each.kind, 0)}
        if "learner" not in kinds and not self._settings.frozen and epoch >= self._delays["learner"]:
            missing.append("the learner")
        due = retrain_due(self._settings, epoch - self._delays["retrain"])
        if self._settings.lockstep and due and "retrain" not in kinds:
            missing.append("a retrain")
        self._report(epoch, missing)
        return not missing

    def _report(self, epoch: int, missing: list[str]) -> None:
        if missing and time.monotonic() - self._waiting_since > _REPORT_AFTER_S:
            self._waiting_since = time.monotonic()
            log.info("epoch %d waits for %s", epoch, " and ".join(missing))


def main(settings: Settings) -> None:
    """Run until the end of the log, or until SIGTERM."""
    torch.set_num_threads(1)  # a fixed number: then sums are equal to the last bit
    with service(settings, ROLE) as (engine, stop):
        run(settings, engine, stop)


def run(settings: Settings, engine: Engine, stop: threading.Event) -> None:
    """Coordinate, whenever this process has the lease, until the log ends or `stop` is set."""
    lease = Lease(engine, settings.run, ROLE)
    publisher = Publisher(settings, clients.producer(settings, ROLE), lease.renew_if_due)
    HEALTH.set_lag(1)  # there is always something to do: the search for due work

    def coordinate() -> None:
        while not stop.is_set():
            HEALTH.progress()
            try:
                telemetry.LEASE_HELD.set(acquired := lease.acquire())
                if not acquired:
                    HEALTH.needs("lease")  # a standby process is ready
                    stop.wait(_WAIT_FOR_LEASE_S)
                else:
                    with DatabaseChanges(engine) as changes:
                        if _act(Coordinator(settings, engine, lease, publisher), changes, stop):
                            return
            except LeaseLostError as error:
                log.warning("%s; waiting for the lease", error)

    outages = (PublicationError, *DATABASE_UNAVAILABLE)
    run_through_outages(coordinate, stop, needs="lease", outages=outages, delay_s=_WAIT_FOR_LEASE_S)
    lease.give_up()


def _act(coordinator: Coordinator, changes: DatabaseChanges, stop: threading.Event) -> bool:
    """Work until the log has ended; return False if `stop` was set before."""
    HEALTH.needs("lease")
    while not stop.is_set():
        HEALTH.progress()
        if not coordinator.step():
            if coordinator.is_finished():
                return True
            changes.wait(stop, POLL_S)
    return False
