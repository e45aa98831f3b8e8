"""The coordinator: it alone judges, numbers and publishes releases, and decides each epoch exactly once.

In: progress of the recorder, proposals of learner and retrain (tables). Out: releases (tables, then the bus), and a
decision an epoch (tables, then the bus). Whatever it was killed at, the next holder of the lease finds in the tables
what is half done and finishes it.
"""

from __future__ import annotations

import logging
import threading
import time

import sqlalchemy as sa
import torch
from sqlalchemy import Connection, Engine

from models.data.catalogue import FIRST_ROW, Catalogue
from models.mc2sf.checkpoint import pack
from models.mc2sf.nets import Nets
from streams.coordinator.lease import Lease, LeaseLostError
from streams.coordinator.publisher import PublicationError, Publisher, read_publication
from streams.coordinator.review import Active, judge
from streams.coordinator.withdrawal import PartRetention
from streams.database import run_state, schema
from streams.database.engine import connect
from streams.database.schema import releases
from streams.kafka import clients
from streams.model_config import net_config
from streams.process import telemetry
from streams.process.health import HEALTH
from streams.process.retry import DATABASE_AWAY
from streams.process.stopping import stop_on_signals
from streams.records import EpochDecision, Manifest
from streams.releases import candidates, registry
from streams.releases.candidates import EMPTY, WAITING, ReleaseCandidate
from streams.releases.item_statistics import counts_of
from streams.releases.registry import Draft
from streams.releases.release import ItemTable
from streams.releases.retrain_schedule import retrain_due
from streams.settings import Settings

log = logging.getLogger(__name__)
POLL_S = 0.04  # of a database: a retrain needs the processor more
_WAIT_FOR_LEASE_S = 0.5
_SAY_AFTER_S = 30.0


class Coordinator:
    """What the holder of the lease does. `step` does one thing, or nothing where nothing is due."""

    def __init__(self, settings: Settings, engine: Engine, lease: Lease, publisher: Publisher) -> None:
        self._settings, self._run = settings, settings.run
        self._engine, self._lease, self._publisher = engine, lease, publisher
        self._active: Active | None = None
        self._withdrawal = PartRetention(settings.run)
        self._waiting_since = time.monotonic()
        with engine.connect() as connection:
            last = run_state.last_decision(connection, self._run)
        self._decided = last.epoch if last else -1
        if last is not None:  # it may have been killed between the table and the bus
            self._publish(last)

    def step(self) -> bool:
        """Do the next thing that is due; false where there is none. Raises LeaseLostError, PublicationError."""
        self._lease.keep()
        with self._engine.connect() as connection:
            half_done = registry.unpublished(connection, self._run)
            active = run_state.active_release(connection, self._run)
        if half_done is not None:
            self._finish(half_done)
        elif active is None:
            self._begin()
        else:
            return self._look(active)
        return True

    def over(self) -> bool:
        """Whether the log is over and every epoch decided."""
        with self._engine.connect() as connection:
            row = run_state.recorded(connection, self._run)
        return row is not None and row[1] and self._decided >= row[0]

    def _begin(self) -> None:
        """Write release 0: a seeded initialisation with an empty catalogue."""
        nets = Nets.initial(net_config(self._settings), FIRST_ROW, self._settings.seed)
        items = ItemTable.of(Catalogue([]), nets.encoder.E.detach().numpy())
        draft = Draft("initial", None, -1, pack(nets), items, 0, {}, {"reason": "seeded initialisation"})
        with self._engine.begin() as connection:
            self._lease.hold(connection)
            manifest = registry.write_release(connection, self._run, draft)
        self._finish(manifest.version)

    def _look(self, version: int) -> bool:
        epoch = self._decided + 1
        with self._engine.connect() as connection:
            found = self._waiting(connection, epoch)
            asked = [p for p in found if p.kind == "rollback"]
            ready = self._ready(connection, epoch, found)
            if not ready and not (asked and not self._settings.lockstep):
                return False
            if self._active is None or self._active.manifest.version != version:
                self._active = Active.read(connection, self._run, version, self._active)
            at_once = not ready  # a rollback, free-running: no epoch ends by it
            judgement = judge(
                connection,
                self._settings,
                self._active,
                self._decided if at_once else epoch,
                asked if at_once else found,
            )
        decision = EpochDecision(epoch, version, judgement.outcome, judgement.reason)
        with self._engine.begin() as connection:
            self._lease.hold(connection)
            manifest = None
            if judgement.draft is not None:
                manifest = registry.write_release(connection, self._run, judgement.explained())
            for proposal, status, reason in judgement.marks:
                candidates.mark(connection, self._run, proposal, status, reason)
            if manifest is None and not at_once:
                registry.write_decision(connection, self._run, decision)
        if manifest is not None:
            self._finish(manifest.version)
        elif not at_once:
            self._decided_on(decision)
        return True

    def _finish(self, version: int) -> None:
        """Publish a release whose rows are written, note that, and decide the epoch at whose end it was made."""
        with self._engine.connect() as connection:
            publication = read_publication(connection, self._run, version)
            manifest = publication.manifest
        self._publisher.publish(publication)
        with self._engine.begin() as connection:
            self._lease.hold(connection)
            registry.finish_release(connection, self._run, version)
            decision = self._decision_on(connection, manifest)
            if decision is not None:
                registry.write_decision(connection, self._run, decision)
        telemetry.RELEASE.labels("coordinator").set(version)
        log.info("release %d (%s) is published: %d rows of E", version, manifest.kind, len(publication.rows))
        if decision is not None:
            self._decided_on(decision)

    def _decision_on(self, connection: Connection, manifest: Manifest) -> EpochDecision | None:
        """The decision that goes with a release: none for release 0 and for a rollback between two epochs."""
        if manifest.kind == "initial" or manifest.epoch <= self._decided:
            return None
        t = releases.c
        this = (t.run == self._run) & (t.version == manifest.version)
        reason = connection.execute(sa.select(t.gate).where(this)).scalar_one()["reason"]
        return EpochDecision(manifest.epoch, manifest.version, manifest.kind, reason)

    def _decided_on(self, decision: EpochDecision) -> None:
        self._publish(decision)
        self._decided = decision.epoch
        self._waiting_since = time.monotonic()
        telemetry.EPOCH.labels("coordinator").set(decision.epoch)
        telemetry.RELEASES.labels(decision.outcome).inc()
        log.info("epoch %d: %s, release %d: %s", decision.epoch, decision.outcome, decision.release, decision.reason)
        with self._engine.begin() as connection:
            self._lease.hold(connection)
            t = schema.proposals.c
            judged = (t.kind == "retrain") & (t.status != WAITING)
            candidates.forget(connection, self._run, judged)
            gone = self._withdrawal.due(connection, decision.epoch)
        self._publisher.withdraw(gone)

    def _publish(self, decision: EpochDecision) -> None:
        with self._engine.connect() as connection:
            counts = counts_of(connection, self._run, decision.epoch)
        self._publisher.decide(decision, counts)

    def _waiting(self, connection: Connection, epoch: int) -> list[ReleaseCandidate]:
        """The proposals to judge at the end of `epoch`: its own; free-running, older retrains too."""
        t = schema.proposals.c
        whenever = ("rollback",) if self._settings.lockstep else ("rollback", "retrain")
        mine = t.kind.in_(whenever) | (t.epoch == epoch)
        return candidates.read(connection, self._run, mine & t.status.in_((WAITING, EMPTY)))

    def _ready(self, connection: Connection, epoch: int, found: list[ReleaseCandidate]) -> bool:
        """Whether everything that the decision of `epoch` waits for is there."""
        recorded = run_state.recorded(connection, self._run)
        missing = []
        if recorded is None or recorded[0] < epoch:
            missing.append("the recorder")
        kinds = {proposal.kind for proposal in found if proposal.epoch == epoch}
        if "learner" not in kinds and not self._settings.frozen:
            missing.append("the learner")
        if self._settings.lockstep and retrain_due(self._settings, epoch) and "retrain" not in kinds:
            missing.append("a retrain")
        if missing and time.monotonic() - self._waiting_since > _SAY_AFTER_S:
            self._waiting_since = time.monotonic()
            log.info("epoch %d waits for %s", epoch, " and ".join(missing))
        return not missing


def main(settings: Settings) -> None:
    """Run until the log is over, or until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    torch.set_num_threads(1)
    stop = stop_on_signals()
    telemetry.serve(settings)
    engine = connect(settings.database.get_secret_value())
    run(settings, engine, stop)
    engine.dispose()


def run(settings: Settings, engine: Engine, stop: threading.Event) -> None:
    """Wait for the lease, act under it, until the log is over or `stop` is set."""
    lease = Lease(engine, settings.run, "coordinator")
    HEALTH.behind(1)  # there is always something to do: to look for what is due
    publisher = Publisher(settings, clients.producer(settings, "coordinator"), lease.keep)
    while not stop.is_set():
        HEALTH.progress()
        try:
            if not lease.take():
                HEALTH.needs("lease")  # standing by is what it is for
                stop.wait(_WAIT_FOR_LEASE_S)
            elif _act(Coordinator(settings, engine, lease, publisher), stop):
                break
        except LeaseLostError as error:
            log.warning("%s; waiting for it again", error)
        except (PublicationError, *DATABASE_AWAY) as error:
            log.warning("%s; beginning again", error)
            HEALTH.needs("lease", "database or broker were away")
            stop.wait(_WAIT_FOR_LEASE_S)
    lease.give_up()


def _act(coordinator: Coordinator, stop: threading.Event) -> bool:
    """Act until stopped (false) or the log is over (true)."""
    HEALTH.needs("lease")
    while not stop.is_set():
        HEALTH.progress()
        if not coordinator.step():
            if coordinator.over():
                return True
            stop.wait(POLL_S)
    return False
