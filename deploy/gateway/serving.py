"""Construction of the gateway with its broker, database and wall clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa
from starlette.applications import Starlette

from deploy.gateway.api.app import Gateway
from deploy.gateway.api.limits import RateLimits
from deploy.gateway.api.tokens import Tokens
from deploy.gateway.epoch_ticker import ROLE, EpochTicker
from deploy.gateway.ingest import Ingest
from deploy.gateway.rankings import Rankings, RankingsReader
from deploy.gateway.run_watch import RunWatch, require_running
from deploy.gateway.tables import Tables
from deploy.runs import find, join_run
from deploy.user_error import UserError
from streams.coordinator.lease import Lease
from streams.database import schema
from streams.kafka import clients
from streams.process import telemetry
from streams.process.clock_and_signals import wall_ms


@contextmanager
def gateway(
    run: str | None, tokens: Path, epoch_s: float | None, deadline_s: float, rate: float
) -> Iterator[tuple[Starlette, RunWatch]]:
    """Open the gateway of a run, by default that in the environment; its watch runs with the application.

    Raises UserError if there is no such run, it is in lockstep or has ended, or `tokens` has none.
    """
    known = Tokens.read(tokens)
    found = find(run or join_run().run)
    settings = found.settings
    if settings.lockstep:
        raise UserError(
            "a gateway needs a free-running run (MC2SF_LOCKSTEP=false): in lockstep a log decides what comes"
        )
    require_running(found)  # before a producer looks for the broker, which may have ended with the run
    producer = clients.producer(settings, "gateway")
    watch = RunWatch(found, producer)
    ingest = Ingest(settings, producer)
    tables = Tables(found)
    rankings = Rankings(ingest, wall_ms, tables.served, deadline_s)
    limits = RateLimits(rate, 2 * rate, time.monotonic)
    ticker = None
    if epoch_s is not None:
        with found.engine.connect() as connection:
            r = schema.runs.c
            created = connection.execute(sa.select(r.created_wall).where(r.run == settings.run)).scalar_one()
        ticker = EpochTicker(ingest, Lease(found.engine, settings.run, ROLE), epoch_s, created, wall_ms)
    try:
        telemetry.serve(settings, "gateway")
        with closing(RankingsReader(settings, rankings.take)):
            yield Gateway(known, ingest, rankings, tables, wall_ms, ticker, watch, limits).app(), watch
    finally:
        found.engine.dispose()
