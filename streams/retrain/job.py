"""The retrain: a batch job on the tables that trains a new encoder and slow part, and a fast part that fits them.

In: interactions up to an epoch, the active release (tables). Out: a release candidate (tables). It starts from the
active weights and gives new items rows of their own. The stream does not wait for it, except in lockstep if it takes
longer than the epochs until its decision (`retrain_delay`). Under torchrun several processes share the work: rank 0
determines what is due and the release to start from, all processes read the tables, rank 0 writes.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Literal

import numpy as np
import sqlalchemy as sa
import torch
from sqlalchemy import Connection, Engine

from models.mc2sf.checkpoint import pack
from models.training import retrain as training
from models.training.distributed import SINGLE_PROCESS, ProcessGroup, process_group
from models.training.retrain import TrainResult
from streams.database import run_state, schema
from streams.database.changes import DatabaseChanges
from streams.database.interaction_log import Interactions
from streams.model_config import train_config, view_spec
from streams.process import telemetry
from streams.process.health import HEALTH, Health
from streams.process.service_loop import run_through_outages, service
from streams.releases import candidates
from streams.releases.candidates import WAITING, ReleaseCandidate
from streams.releases.gate import number_or_none
from streams.releases.release import read_manifest, read_release
from streams.releases.retrain_schedule import next_retrain
from streams.settings import Settings, SettingsError

log = logging.getLogger(__name__)
ROLE = "retrain"
POLL_S = 0.02


class Retrain:
    """Retrains of one run, one after the other."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        processes: ProcessGroup = SINGLE_PROCESS,
        health: Health = HEALTH,
    ) -> None:
        self._settings, self._run, self._engine, self._processes = settings, settings.run, engine, processes
        self._health = health
        self._interactions = Interactions(settings.run, settings.retrain_events)
        self._next = 0  # the first epoch at which a retrain may be due

    def due(self) -> int | None:
        """Return the epoch at whose end a retrain is due and can begin; None if there is none.

        In lockstep each scheduled epoch in turn, once the epoch before it is decided; free-running the newest.
        """
        with self._engine.connect() as connection:
            recorded = run_state.recorded(connection, self._run)
            if recorded is None or recorded[0] < self._next:
                return None
            t = schema.proposals.c
            done = sa.select(sa.func.max(t.epoch)).where((t.run == self._run) & (t.kind == ROLE))
            last = connection.execute(done).scalar()
            epoch = self._next = next_retrain(self._settings, -1 if last is None else last)
            if recorded[0] < epoch or run_state.active_release(connection, self._run) is None:
                return None
            if self._settings.lockstep:
                ready = epoch == 0 or run_state.decision(connection, self._run, epoch - 1) is not None
                return epoch if ready else None
        while (later := next_retrain(self._settings, epoch)) <= recorded[0]:
            epoch = later
        return epoch

    def possible_now(self) -> int | None:
        """Return the epoch of a retrain that is due or, free-running, the last recorded one; None if there is none."""
        due = self.due()
        if due is not None or self._settings.lockstep:
            return due
        with self._engine.connect() as connection:
            recorded = run_state.recorded(connection, self._run)
        return recorded[0] if recorded else None

    def _parent(self, connection: Connection, epoch: int) -> int | None:
        """Return the release to start from: in lockstep that of `epoch`, however far the stream has gone on."""
        decision = run_state.decision(connection, self._run, epoch - 1) if self._settings.lockstep else None
        return decision.release if decision else run_state.active_release(connection, self._run)

    def is_finished(self) -> bool:
        """Return True if no retrain will be due any more."""
        with self._engine.connect() as connection:
            ended = run_state.all_recorded(connection, self._run)
        return ended and self.due() is None

    def make(self, epoch: int) -> ReleaseCandidate:
        """Retrain on everything up to `epoch`; rank 0 writes the release candidate."""
        began = time.monotonic()
        with self._engine.connect() as connection:
            self._interactions.load(connection, epoch, self._health.progress)
            parent = None if self._processes.rank else self._parent(connection, epoch)
            with self._health.busy():  # until the other processes have read as much
                version = self._processes.from_first(lambda: parent)
            assert version is not None
            release = read_release(connection, self._run, version)
            since = _trained_until(connection, self._run, release.manifest.versions.encoder)
        loaded = time.monotonic()
        with self._health.busy():  # the database is not: it may hang
            result = training.retrain(
                release.nets,
                release.catalogue.extended(self._interactions.keys),
                self._interactions.log(),
                config=train_config(self._settings),
                spec=view_spec(self._settings),
                seed=self._settings.seed,
                since=since,
                processes=self._processes,
                device=_device(self._settings.retrain_device),
            )
            candidate = _candidate(epoch, version, result)
        if self._processes.rank:
            return candidate
        with self._engine.begin() as connection:
            candidates.write(connection, self._run, candidate)
        telemetry.TRAINING_SECONDS.labels(ROLE).observe(time.monotonic() - began)
        telemetry.observe_losses(ROLE, candidate.quality)
        log.info(
            "epoch %d: %d clicks, step %d of %d kept, loss %.4f -> %.4f, %d items; %.1f s to load, %.1f s to train",
            epoch,
            result.trained,
            result.kept,
            result.steps,
            result.active,
            result.candidate,
            len(result.catalogue),
            loaded - began,
            time.monotonic() - loaded,
        )
        return candidate


def _candidate(epoch: int, parent: int, result: TrainResult) -> ReleaseCandidate:
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
        "kept": result.kept,
    }
    return ReleaseCandidate(epoch, ROLE, WAITING, parent, candidates.pack(entries), {}, quality, result.trained_until)


def _trained_until(connection: Connection, run: str, encoder: int) -> int | None:
    """Return the time of the newest click that encoder version `encoder` was trained on; None for a seeded one.

    The learner's releases give the time of the fast part, so the encoder's own release counts; the encoder of a
    rollback is that of the release that it restored.
    """
    while True:
        manifest = read_manifest(connection, run, encoder)
        if manifest.kind == "initial":
            return None
        if manifest.kind != "rollback":
            return manifest.trained_until
        encoder = read_manifest(connection, run, int(manifest.gate["to"])).versions.encoder


def _device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device. Raises SettingsError if it is not there."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise SettingsError("MC2SF_RETRAIN_DEVICE is cuda, and torch finds no such device")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def main(settings: Settings, *, once: bool = False) -> None:
    """Retrain whenever it is due until the log ends or SIGTERM; with `once` retrain now and end."""
    _device(settings.retrain_device)
    torch.set_num_threads(settings.retrain_threads)  # a fixed number: then sums are equal to the last bit
    with (
        service(settings, ROLE, serves_telemetry=False) as (engine, stop),
        process_group() as processes,
    ):
        if processes.rank == 0:
            telemetry.serve(settings, ROLE)
        run(settings, engine, stop, once=once, processes=processes)


def run(
    settings: Settings,
    engine: Engine,
    stop: threading.Event,
    *,
    once: bool = False,
    processes: ProcessGroup = SINGLE_PROCESS,
    health: Health = HEALTH,
) -> None:
    """Make the retrains that are due until the log ends or `stop` is set; with `once` a single one.

    Raises OperationalError if the database is unavailable and there are several `processes`: the others can't wait for
    this one, and torchrun restarts all of them. A single process tries again.
    """
    retrain = Retrain(settings, engine, processes, health)
    health.set_lag(1)  # there is always something to do: the search for due work

    def work() -> None:
        with DatabaseChanges(engine) as changes:
            make_due(changes)

    def make_due(changes: DatabaseChanges) -> None:
        while not processes.from_first(stop.is_set):
            health.progress()
            epoch = processes.from_first(retrain.possible_now if once else retrain.due)
            health.needs("tables")
            if epoch is not None:
                retrain.make(epoch)
            elif once:
                log.warning("no retrain is due: in lockstep they are made at the epochs of the schedule only")
            if once or (epoch is None and processes.from_first(retrain.is_finished)):
                return
            if epoch is None and processes.rank == 0:  # the others wait for rank 0
                changes.wait(stop, POLL_S)

    if processes.world_size > 1:
        work()
    else:
        run_through_outages(work, stop)
