"""The gateway's outside world: broker, database, releases in memory, the wall clock."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
import torch
from starlette.applications import Starlette

from deploy.gateway.app import Gateway
from deploy.gateway.epoch_ticker import ROLE, EpochTicker
from deploy.gateway.ingest import Ingest
from deploy.gateway.tokens import Tokens
from deploy.recommend import Recommendation, recommend
from deploy.runs import Found, find, joined_run
from deploy.user_error import UserError
from streams.coordinator.lease import Lease
from streams.database import schema
from streams.kafka import clients
from streams.process.clock_and_signals import wall_ms
from streams.releases.release import Release, read_release


class Ranker:
    """Ranks from the tables of a run. The newest releases stay in memory; one request at a time computes."""

    def __init__(self, found: Found) -> None:
        self._found, self._one_at_a_time = found, threading.Lock()
        self._release = functools.lru_cache(maxsize=2)(self._read)

    def _read(self, version: int) -> Release:
        with self._found.engine.connect() as connection:
            return read_release(connection, self._found.settings.run, version)

    def __call__(self, user: str, k: int, candidates: list[str] | None) -> Recommendation:
        """Return the best k items of the catalogue, or the candidates in order. Raises UserError."""
        with self._one_at_a_time:
            return recommend(
                self._found, user, k, candidates=candidates, read=lambda _connection, _run, v: self._release(v)
            )

    def next_seq(self, user: str) -> int:
        """Return the number of the user's next event as far as recorded, 0 for an unknown user."""
        i = schema.interactions.c
        query = sa.select(sa.func.max(i.seq)).where(i.run == self._found.settings.run, i.user == user)
        with self._found.engine.connect() as connection:
            last = connection.execute(query).scalar_one()
        return 0 if last is None else int(last) + 1


@contextmanager
def gateway(tokens: Path, epoch_s: float | None) -> Iterator[Starlette]:
    """Open the gateway of the run in the environment. Raises UserError if it is in lockstep, or `tokens` has none."""
    torch.set_num_threads(1)
    known = Tokens.read(tokens)
    settings = joined_run()
    if settings.lockstep:
        raise UserError(
            "a gateway needs a free-running run (MC2SF_LOCKSTEP=false): in lockstep a log decides what comes"
        )
    found = find(settings.run)
    ranker = Ranker(found)
    ingest = Ingest(settings, clients.producer(settings, "gateway"))
    ticker = None
    if epoch_s is not None:
        with found.engine.connect() as connection:
            r = schema.runs.c
            created = connection.execute(sa.select(r.created_wall).where(r.run == settings.run)).scalar_one()
        ticker = EpochTicker(ingest, Lease(found.engine, settings.run, ROLE), epoch_s, created, wall_ms)
    try:
        yield Gateway(known, ingest, ranker, ranker.next_seq, wall_ms, ticker).app()
    finally:
        found.engine.dispose()
