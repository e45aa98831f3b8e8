"""The learner: trains the fast part online and writes a release candidate per epoch, an empty one until it is better.

In: fast-examples; decisions (tables). Out: release candidates (tables). The row of a candidate, also of an empty one,
holds weights, optimiser, evidence and offsets together, so after a crash the learner continues exactly there.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing

import torch
from sqlalchemy import Engine

from models.data.interaction_log import InteractionLog
from models.evaluation.sequential_test import PairedEvidence
from streams.database import run_state, schema
from streams.database.changes import DatabaseChanges
from streams.database.interaction_log import Interactions
from streams.kafka.partition_consumer import OpenConsumer, PartitionConsumer
from streams.kafka.stall_detector import StalledError
from streams.learner import examples
from streams.learner.example_buffer import ExampleBuffer
from streams.learner.example_consumer import ROLE, ExampleConsumer
from streams.learner.trainer import Trainer, TrainingRound
from streams.process import telemetry
from streams.process.health import HEALTH, Health
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.process.service_loop import run_through_outages, service
from streams.records import FastExample
from streams.release_records import EpochDecision
from streams.releases import candidates
from streams.releases.candidates import EMPTY, WAITING, ReleaseCandidate
from streams.releases.release import read_release
from streams.releases.retrain_schedule import learner_delay, retrain_delay
from streams.settings import Settings
from streams.topics import FAST_EXAMPLES

log = logging.getLogger(__name__)
POLL_S = 0.01
_KEEP_EPOCHS = 3  # the bytes of candidates that wait are kept


class Learner:
    """Connects example buffer and trainer to the tables, without Kafka.

    Before it trains on the next epoch it acts on the decision of epoch `awaited`, if that is not None.
    """

    def __init__(self, settings: Settings, engine: Engine, health: Health = HEALTH) -> None:
        self._settings, self._run, self._engine, self._health = settings, settings.run, engine, health
        self.buffer = ExampleBuffer(FAST_EXAMPLES.partitions(settings), closed=-1)
        self._delay = learner_delay(settings)
        self.awaited: int | None = self._delay - 1
        self._trainer: Trainer | None = None
        self._interactions = Interactions(settings.run, settings.retrain_events)
        self._candidate: bytes | None = None  # the fast part whose decision is awaited
        self._carried: list[FastExample] = []
        with engine.connect() as connection:
            written = candidates.read(connection, self._run, schema.proposals.c.kind == ROLE)
        if written:
            last = written[-1]
            self.buffer.closed, self.awaited = last.epoch, last.epoch + self._delay
            self.buffer.resume({int(name.rpartition("/")[2]): offset for name, offset in last.offsets.items()})
            entries = candidates.unpack(last.data)
            self._carried = examples.from_bytes(entries["carried"])
            self._candidate = entries.get("fast")
            self._trainer = self._start_from(last.parent)
            self._trainer.load(entries["state"])

    def check_decision(self) -> bool:
        """Act on the awaited decision; return False if there is none yet."""
        with self._engine.connect() as connection:
            if self.awaited is None or self.awaited < 0:  # no candidate was written yet: it waits for release 0
                version = run_state.active_release(connection, self._run)
                decision = None if version is None else EpochDecision(-1, version, "unchanged", "")
            else:
                decision = run_state.decision(connection, self._run, self.awaited)
        if decision is None:
            return False
        trainer, candidate = self._trainer, self._candidate
        if trainer is not None and decision.release == trainer.version:
            if candidate is not None:  # it was rejected
                trainer.discard()
        elif trainer is not None and candidate is not None and decision.outcome == ROLE:
            trainer.accept(decision.release, candidate)
        else:
            self._trainer = self._start_from(decision.release)
        self.awaited = self._candidate = None
        telemetry.RELEASE.labels(ROLE).set(decision.release)
        return True

    def is_finished(self) -> bool:
        """Return True if the log has ended and is recorded: until then more records may come, which it refuses."""
        if not self.buffer.log_ended():
            return False
        with self._engine.connect() as connection:
            return run_state.all_recorded(connection, self._run)

    def train(self) -> None:
        """Train on the epoch that all partitions have ended, and write the release candidate."""
        assert self._trainer is not None
        closed = self.buffer.close()
        carried = [example for example in self._carried if self._trainer.fits(example)]
        received = [example for example in closed if self._trainer.fits(example)]
        began = time.monotonic()
        counted = self._log_to_count()
        with self._health.busy():
            trained = self._trainer.train(carried, received, counted)
        telemetry.TRAINING_SECONDS.labels(ROLE).observe(time.monotonic() - began)
        telemetry.EXAMPLES.labels("fitting").inc(len(received))
        telemetry.EXAMPLES.labels("other_release").inc(len(closed) - len(received))
        telemetry.EPOCH.labels(ROLE).set(self.buffer.closed)
        telemetry.observe_losses(ROLE, trained.quality)
        self._write_candidate(self._trainer.version, trained)
        self._candidate, self._carried = trained.fast, trained.carried
        self.awaited = self.buffer.closed + self._delay

    def _write_candidate(self, parent: int, trained: TrainingRound) -> None:
        entries = {"carried": examples.to_bytes(trained.carried), "state": trained.state}
        if trained.fast is not None:
            entries["fast"] = trained.fast
        offsets = {f"{FAST_EXAMPLES.name}/{p}": offset for p, offset in self.buffer.offsets().items()}
        epoch = self.buffer.closed
        status = WAITING if trained.fast is not None else EMPTY
        data = candidates.pack(entries)
        candidate = ReleaseCandidate(epoch, ROLE, status, parent, data, offsets, trained.quality, trained.trained_until)
        with self._engine.begin() as connection:
            candidates.write(connection, self._run, candidate)
            t = schema.proposals.c
            before = (t.kind == ROLE) & (t.epoch < epoch)  # a learner that is started again needs the last one only
            reviewed = (t.status != WAITING) | (t.epoch < epoch - _KEEP_EPOCHS)
            candidates.forget(connection, self._run, before & reviewed)

    def _log_to_count(self) -> InteractionLog | None:
        """Return the events before this epoch, all of which are recorded, if transitions are due to be counted.

        One of the times is the first epoch on a release of the retrain.
        """
        epoch = self.buffer.closed
        due = (epoch - retrain_delay(self._settings)) % self._settings.transitions_every == 0 < epoch
        if not self._settings.stacked or not due:
            return None
        with self._engine.connect() as connection:
            self._interactions.load(connection, epoch - 1, self._health.progress)
        with self._health.busy():
            return self._interactions.log()

    def _start_from(self, version: int) -> Trainer:
        with self._engine.connect() as connection:
            release = read_release(connection, self._run, version)
        log.info("training on release %d", version)
        return Trainer(self._settings, release, self._trainer.freshness if self._trainer else PairedEvidence())


def main(settings: Settings) -> None:
    """Run until the end of the log, or until SIGTERM."""
    torch.set_num_threads(1)  # a fixed number: then sums are equal to the last bit
    with service(settings, ROLE) as (engine, stop):
        run(settings, engine, stop)


def run(
    settings: Settings,
    engine: Engine,
    stop: threading.Event,
    open_consumer: OpenConsumer = PartitionConsumer,
    health: Health = HEALTH,
) -> None:
    """Learn until the log ends or `stop` is set; after an outage of the database start again from what it holds."""

    def learn() -> None:
        with health.pending():
            learner = Learner(settings, engine, health)
        consumer = ExampleConsumer(settings, learner.buffer, open_consumer, health)
        with closing(consumer), DatabaseChanges(engine) as changes:
            health.needs("tables")
            is_over = False
            while not (is_over or stop.is_set()):
                with health.pending():  # the database may hang also if every record was read
                    is_over = _step(learner, consumer, changes, stop, health)

    run_through_outages(learn, stop, outages=(*DATABASE_UNAVAILABLE, StalledError))


def _step(
    learner: Learner, consumer: ExampleConsumer, changes: DatabaseChanges, stop: threading.Event, health: Health
) -> bool:
    """Read, train or wait, whichever is due; return True once the log has ended and is recorded."""
    if not learner.buffer.ready():
        if learner.is_finished():
            consumer.flush_dead_letters()
            return True
        consumer.read()
        lag = consumer.lag()
        health.set_lag(lag)
        telemetry.LAG.labels(ROLE, FAST_EXAMPLES.name).set(lag)
    elif learner.awaited is None or learner.check_decision():
        consumer.flush_dead_letters()
        learner.train()
    else:
        health.set_lag(0)  # records wait until the coordinator has decided: that is not being stuck
        changes.wait(stop, POLL_S)
    return False
