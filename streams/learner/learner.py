"""The learner: online steps of the fast part, and a small release proposed an epoch.

In: fast-examples; decisions (tables). Out: proposals (tables). Its truth is what was accepted: weights, optimiser and
offsets stand together in the rows of its proposals, so that after a crash it goes on exactly there.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import torch
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from sqlalchemy import Engine

from streams.codec import Reader, RecordError
from streams.database import run_state, schema
from streams.database.engine import connect
from streams.kafka import clients
from streams.kafka.dead_letters import DeadLetterBox
from streams.kafka.message import Message
from streams.kafka.stall_detector import StallDetector, StalledError
from streams.learner import examples
from streams.learner.example_buffer import ExampleBuffer
from streams.learner.trainer import Trainer, TrainingRound
from streams.process import telemetry
from streams.process.health import HEALTH
from streams.process.retry import AGAIN_S, DATABASE_AWAY
from streams.process.stopping import stop_on_signals
from streams.records import EpochDecision, ExampleEvent, FastExample
from streams.releases import candidates
from streams.releases.candidates import EMPTY, WAITING, ReleaseCandidate
from streams.releases.release import read_manifest, read_release
from streams.settings import Settings
from streams.topics import FAST_EXAMPLES

log = logging.getLogger(__name__)
ROLE = "learner"
POLL_S = 0.01
_KEEP_EPOCHS = 3  # of whose proposals the bytes are kept
_TAKE = 2000


class Learner:
    """Ties intake and pupil to the tables; knows no Kafka.

    It is always in one of two states: it waits for the decision of `awaited`, or it takes in the next epoch.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings, self._run, self._engine = settings, settings.run, engine
        self.intake = ExampleBuffer(FAST_EXAMPLES.partitions(settings), closed=-1)
        self.awaited: int | None = -1
        self._pupil: Trainer | None = None
        self._lesson: TrainingRound | None = None
        self._carried: list[FastExample] = []
        with engine.connect() as connection:
            own = candidates.read(connection, self._run, schema.proposals.c.kind == ROLE)
        if own:
            last = own[-1]
            self.intake.closed = self.awaited = last.epoch
            self.intake.resume({int(name.rpartition("/")[2]): offset for name, offset in last.offsets.items()})
            self._carried = examples.from_bytes(candidates.unpack(last.data)["carried"])

    def look(self) -> bool:
        """Look for the awaited decision and act on it; false where it is not there yet."""
        with self._engine.connect() as connection:
            if self.awaited is None or self.awaited < 0:  # nothing was proposed yet: it waits for release 0
                version = run_state.active_release(connection, self._run)
                decision = None if version is None else EpochDecision(-1, version, "unchanged", "")
            else:
                decision = run_state.decision(connection, self._run, self.awaited)
        if decision is None:
            return False
        if self._pupil is None:
            self._take_up(decision.release)
        elif decision.release == self._pupil.version:
            self._pupil.revert()
        elif decision.outcome == ROLE and self._lesson is not None:
            self._pupil.accept(decision.release, self._lesson)
        else:
            self._take_up(decision.release)
        self.awaited = self._lesson = None
        telemetry.RELEASE.labels(ROLE).set(decision.release)
        return True

    def over(self) -> bool:
        """Whether the log is over, and recorded: until then more that is to be refused may come."""
        if not self.intake.over():
            return False
        with self._engine.connect() as connection:
            return run_state.all_recorded(connection, self._run)

    def teach(self) -> None:
        """Learn from the epoch that all partitions have ended, and propose what came of it."""
        assert self._pupil is not None
        examples_of_epoch = self.intake.close()
        pool = self._carried + examples_of_epoch
        fitting = [example for example in pool if self._pupil.fits(example)]
        began = time.monotonic()
        lesson = self._pupil.study(fitting)
        telemetry.TRAINING_SECONDS.labels(ROLE).observe(time.monotonic() - began)
        telemetry.EXAMPLES.labels("fitting").inc(len(fitting))
        telemetry.EXAMPLES.labels("other_release").inc(len(pool) - len(fitting))
        telemetry.EPOCH.labels(ROLE).set(self.intake.closed)
        for which in ("active", "candidate"):
            if lesson.quality[which] is not None:
                telemetry.TRAINING_LOSS.labels(ROLE, which).set(lesson.quality[which])
        self._propose(lesson)
        self._carried = lesson.carried

    def _propose(self, lesson: TrainingRound) -> None:
        assert self._pupil is not None
        entries = {"carried": examples.to_bytes(lesson.carried)}
        if lesson.fast is not None and lesson.state is not None:
            entries |= {"fast": lesson.fast, "state": lesson.state}
        offsets = {f"{FAST_EXAMPLES.name}/{p}": offset for p, offset in self.intake.offsets().items()}
        epoch = self.intake.closed
        status = WAITING if lesson.fast is not None else EMPTY
        data = candidates.pack(entries)
        proposal = ReleaseCandidate(
            epoch, ROLE, status, self._pupil.version, data, offsets, lesson.quality, lesson.trained_until
        )
        with self._engine.begin() as connection:
            candidates.write(connection, self._run, proposal)
            t = schema.proposals.c
            active = read_manifest(connection, self._run, self._pupil.version)
            old = (t.kind == ROLE) & (t.epoch < epoch - _KEEP_EPOCHS) & (t.epoch != active.epoch)
            candidates.forget(connection, self._run, old)
        self.awaited, self._lesson = epoch, lesson

    def _take_up(self, version: int) -> None:
        """Begin on release `version`: where it was this one's own, with the optimiser that belongs to it."""
        with self._engine.connect() as connection:
            release = read_release(connection, self._run, version)
            state = None
            if release.manifest.kind == ROLE:
                t = schema.proposals.c
                own = (t.kind == ROLE) & (t.epoch == release.manifest.epoch)
                state = candidates.unpack(candidates.read(connection, self._run, own)[0].data)["state"]
        self._pupil = Trainer(self._settings, release, state)
        log.info("learning on release %d", version)


class Examples:
    """Feeds a learner's intake from the bus."""

    def __init__(self, settings: Settings, intake: ExampleBuffer) -> None:
        self._settings, self._intake = settings, intake
        self._topic = FAST_EXAMPLES.full(settings)
        self._consumer = clients.consumer(settings, ROLE, **{"queued.max.messages.kbytes": 16_384})
        self._producer = clients.producer(settings, ROLE)
        self._box = DeadLetterBox(settings, self._producer)
        self._reader: Reader[Any] = Reader(ExampleEvent)
        self._paused: set[int] = set()
        places = [TopicPartition(self._topic, p, offset or OFFSET_BEGINNING) for p, offset in intake.offsets().items()]
        self._consumer.assign(places)
        self._silence = StallDetector(self._consumer, places)

    def take(self) -> None:
        """Take in what there is, waiting a moment for the first record. Raises StalledError."""
        first = self._consumer.poll(POLL_S * 10)
        if first is not None:
            HEALTH.progress()
        for message in [] if first is None else [first, *self._consumer.consume(_TAKE, 0)]:
            if message.error():
                log.warning("reading examples: %s", message.error())
                continue
            self._silence.heard(message)
            received = Message.taken(FAST_EXAMPLES.name, message)
            try:
                record = self._reader.decode(received.value)
                if isinstance(record, FastExample):
                    received.check_user(record.user, self._settings.partitions)
                    examples.check(record, self._settings.dim)
                self._intake.put(received.partition, received.offset, record)
            except RecordError as error:
                self._box.put(received.refused(str(error), ROLE))
                self._intake.skip(received.partition, received.offset)
        self._hold_back()
        self._silence.look({(self._topic, p) for p in self._paused})

    def lag(self) -> int:
        """Return how many records are known to wait in the partitions that are read on."""
        read_on = [TopicPartition(self._topic, p) for p in range(self._settings.partitions) if p not in self._paused]
        waiting = 0
        for place in self._consumer.position(read_on):
            _, high = self._consumer.get_watermark_offsets(place, cached=True)
            waiting += max(high - max(place.offset, 0), 0)
        return waiting

    def settle(self) -> None:
        """Have every dead letter acknowledged: called before offsets past them are written."""
        while self._producer.flush(1.0):
            log.warning("dead letters are not acknowledged yet")

    def close(self) -> None:
        """Leave the bus."""
        self._consumer.close()

    def _hold_back(self) -> None:
        """Keep what is held bounded, where needed only: going on after a pause takes librdkafka a second."""
        full = {p for p in range(self._settings.partitions) if self._intake.full(p)}
        if full != self._paused:
            self._consumer.pause([TopicPartition(self._topic, p) for p in full - self._paused])
            self._consumer.resume([TopicPartition(self._topic, p) for p in self._paused - full])
            self._paused = full


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
    """Learn until the log is over or `stop` is set. A database that was away: begin again from what it holds."""
    while not stop.is_set():
        bus = None
        try:
            learner = Learner(settings, engine)
            bus = Examples(settings, learner.intake)
            HEALTH.needs("tables")
            _learn(learner, bus, stop)
        except (*DATABASE_AWAY, StalledError) as error:
            log.warning("%s; beginning again from the tables", error)
            HEALTH.needs("tables", "database or broker were away")
            HEALTH.progress()  # trying is all that can be done: it is not stuck
            stop.wait(AGAIN_S)
        else:
            return
        finally:
            if bus is not None:
                bus.close()


def _learn(learner: Learner, bus: Examples, stop: threading.Event) -> None:
    while not stop.is_set():
        if learner.awaited is not None:
            HEALTH.behind(0)  # waiting for the coordinator is not being stuck
            if not learner.look():
                stop.wait(POLL_S)
        elif learner.intake.ready():
            bus.settle()
            learner.teach()
        elif learner.over():
            bus.settle()
            return
        else:
            bus.take()
            HEALTH.behind(bus.lag())
