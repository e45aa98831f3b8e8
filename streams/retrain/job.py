"""The retrain: a batch job on the tables that proposes a new encoder and slow part, and a fast part that fits them.

In: interactions up to an epoch, the release in force (tables). Out: a proposal (tables). Warm start; items that
appeared get rows of their own. It may run beside the stream for long: nothing waits for it but, in lockstep, the
decision of the epoch at which it is due. Under torchrun several processes compute it together: rank 0 says what is due
and from which release, all read the tables, rank 0 writes.
"""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import sqlalchemy as sa
import torch
from sqlalchemy import Connection, Engine

from models.mc2sf.checkpoint import pack
from models.training import retrain as training
from models.training.distributed import ALONE, Ranks, joined
from models.training.retrain import TrainResult
from streams.database import run_state, schema
from streams.database.engine import connect
from streams.database.interaction_log import Interactions
from streams.model_config import train_config, view_spec
from streams.process import telemetry
from streams.process.health import HEALTH
from streams.process.retry import DATABASE_AWAY
from streams.process.stopping import stop_on_signals
from streams.releases import candidates
from streams.releases.candidates import WAITING, ReleaseCandidate
from streams.releases.gate import number_or_none
from streams.releases.release import read_manifest, read_release
from streams.releases.retrain_schedule import next_retrain
from streams.settings import Settings

log = logging.getLogger(__name__)
ROLE = "retrain"
POLL_S = 0.02


class Retrain:
    """Retrains of one run, one after the other."""

    def __init__(self, settings: Settings, engine: Engine, ranks: Ranks = ALONE) -> None:
        self._settings, self._run, self._engine, self._ranks = settings, settings.run, engine, ranks
        self._interactions = Interactions(settings.run, settings.retrain_events)

    def due(self) -> int | None:
        """Return the epoch at whose end a retrain is due and can begin.

        In lockstep every one in turn, as soon as the decision before it is there; free-running the newest.
        """
        with self._engine.connect() as connection:
            recorded = run_state.recorded(connection, self._run)
            t = schema.proposals.c
            done = sa.select(sa.func.max(t.epoch)).where((t.run == self._run) & (t.kind == ROLE))
            last = connection.execute(done).scalar()
            epoch = next_retrain(self._settings, -1 if last is None else last)
            if recorded is None or recorded[0] < epoch or run_state.active_release(connection, self._run) is None:
                return None
            if self._settings.lockstep:
                ready = epoch == 0 or run_state.decision(connection, self._run, epoch - 1) is not None
                return epoch if ready else None
        while (later := next_retrain(self._settings, epoch)) <= recorded[0]:
            epoch = later
        return epoch

    def now(self) -> int | None:
        """Return the epoch up to which a retrain can be made at once: one that is due, or any where nothing waits."""
        due = self.due()
        if due is not None or self._settings.lockstep:
            return due
        with self._engine.connect() as connection:
            recorded = run_state.recorded(connection, self._run)
        return recorded[0] if recorded else None

    def over(self) -> bool:
        """Whether no retrain will be due any more."""
        with self._engine.connect() as connection:
            ended = run_state.all_recorded(connection, self._run)
        return ended and self.due() is None

    def make(self, epoch: int) -> ReleaseCandidate:
        """Retrain on everything up to `epoch` and write the proposal; of several processes rank 0 does."""
        began = time.monotonic()
        with self._engine.connect() as connection:
            self._interactions.load(connection, epoch)
            version = self._ranks.first(lambda: run_state.active_release(connection, self._run))
            assert version is not None
            release = read_release(connection, self._run, version)
            since = _trained_until(connection, self._run, release.manifest.versions.encoder)
        loaded = time.monotonic()
        result = training.retrain(
            release.nets,
            release.catalogue.extended(self._interactions.keys),
            self._interactions.log(),
            config=train_config(self._settings),
            spec=view_spec(self._settings),
            seed=self._settings.seed,
            since=since,
            ranks=self._ranks,
        )
        proposal = _proposal(epoch, version, result)
        if self._ranks.rank:
            return proposal
        with self._engine.begin() as connection:
            candidates.write(connection, self._run, proposal)
        telemetry.TRAINING_SECONDS.labels(ROLE).observe(time.monotonic() - began)
        for which in ("active", "candidate"):
            if (loss := proposal.quality[which]) is not None:
                telemetry.TRAINING_LOSS.labels(ROLE, which).set(loss)
        log.info(
            "epoch %d: %d clicks, %d steps, held-out loss %.4f -> %.4f, %d items; %.1f s to load, %.1f s to train",
            epoch,
            result.trained,
            result.steps,
            result.active,
            result.candidate,
            len(result.catalogue),
            loaded - began,
            time.monotonic() - loaded,
        )
        return proposal


def _proposal(epoch: int, parent: int, result: TrainResult) -> ReleaseCandidate:
    E = result.nets.encoder.E.detach().numpy()
    entries = pack(result.nets) | {
        "E": np.ascontiguousarray(E, dtype="<f4").tobytes(),
        "keys": result.catalogue.keys.astype("<i8").tobytes(),
    }
    quality = {
        "active": number_or_none(result.active),
        "candidate": number_or_none(result.candidate),
        "n": result.n,
        "finite": result.finite,
        "trained": result.trained,
        "steps": result.steps,
    }
    return ReleaseCandidate(epoch, ROLE, WAITING, parent, candidates.pack(entries), {}, quality, result.trained_until)


def _trained_until(connection: Connection, run: str, encoder: int) -> int | None:
    """The time of the newest click that encoder version `encoder` was trained on; None for a seeded one.

    The learner's releases say until when the fast part was trained, so it is the encoder's own release that counts; a
    rollback's encoder is that of the release that it brought back.
    """
    while True:
        manifest = read_manifest(connection, run, encoder)
        if manifest.kind == "initial":
            return None
        if manifest.kind != "rollback":
            return manifest.trained_until
        encoder = read_manifest(connection, run, int(manifest.gate["to"])).versions.encoder


def main(settings: Settings, *, once: bool = False) -> None:
    """Retrain whenever it is due until the log is over or SIGTERM; `once`: now, on what is recorded, and end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    torch.set_num_threads(settings.retrain_threads)  # always as many: sums then come out the same, bit for bit
    stop = stop_on_signals()
    engine = connect(settings.database.get_secret_value())
    with joined() as ranks:
        if ranks.rank == 0:
            telemetry.serve(settings)
        run(settings, engine, stop, once=once, ranks=ranks)
    engine.dispose()


def run(settings: Settings, engine: Engine, stop: threading.Event, *, once: bool = False, ranks: Ranks = ALONE) -> None:
    """Make the retrains that are due until the log is over or `stop` is set; with `once` a single one.

    Raises OperationalError when the database is away and there are several `ranks`: the others can't wait for this one,
    and torchrun starts all of them again. One alone tries again.
    """
    retrain = Retrain(settings, engine, ranks)
    HEALTH.behind(1)  # there is always something to do: to look for what is due
    while not ranks.first(stop.is_set):
        HEALTH.progress()
        try:
            epoch = ranks.first(retrain.now if once else retrain.due)
            HEALTH.needs("tables")
            if epoch is not None:
                with HEALTH.busy():
                    retrain.make(epoch)
            elif once:
                log.warning("no retrain is due: in lockstep they are made at the epochs of the schedule only")
            if once or (epoch is None and ranks.first(retrain.over)):
                return
        except DATABASE_AWAY as error:
            if ranks.world > 1:
                raise
            log.warning("%s; trying again", error)
            HEALTH.needs("tables", "the database was away")
            epoch = None
        if epoch is None:
            stop.wait(POLL_S)
