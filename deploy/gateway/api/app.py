"""The gateway's routes: they check token, rate and body, and call a handler. No arithmetic, no Kafka, no SQL in here.

Errors are answered in JSON: `{"error": sentence}`; the sentence names the field, if one is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.gateway.api import endpoints, metarank
from deploy.gateway.api.answers import fail, json_answer, refuse
from deploy.gateway.api.bodies import (
    MAX_CANDIDATES,
    MAX_NAME,
    BodyError,
    Candidates,
    Event,
    Events,
    EventsAnswer,
    ForgetAnswer,
    HealthAnswer,
    RankingAnswer,
    ReleasesAnswer,
    check_candidates,
    check_path,
    check_user,
    variant_of,
)
from deploy.gateway.api.endpoints import Endpoint
from deploy.gateway.api.idempotency import SeenKeys, body_hash
from deploy.gateway.api.limits import RateLimits
from deploy.gateway.api.measured import HttpHandler, Measured, templated
from deploy.gateway.api.openapi import document
from deploy.gateway.api.request_body import read_body
from deploy.gateway.api.tokens import Token, Tokens
from deploy.gateway.epoch_ticker import EpochTicker
from deploy.gateway.explanation import explain
from deploy.gateway.ingest import Ingest, UnacknowledgedError
from deploy.gateway.lists import batch_of
from deploy.gateway.rankings import NoRankingError, Rankings
from deploy.gateway.run_watch import RunWatch
from deploy.gateway.shown import answer, shown
from deploy.gateway.tables import Tables
from streams.codec import RecordError
from streams.prequential.served import By
from streams.process import telemetry
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.records import Forget
from streams.releases.release import ReleaseError

log = logging.getLogger(__name__)
_LATE: dict[type[Exception], str] = {UnacknowledgedError: "the broker has not", NoRankingError: "no device worker has"}
_EVENTS, _CANDIDATES = msgspec.json.Decoder(Events), msgspec.json.Decoder(Candidates)


class Call(NamedTuple):
    """A request that was admitted; `user` is empty if its path has none."""

    request: Request
    token: Token
    user: str


Handler = Callable[[Call], Awaitable[msgspec.Struct]]


@dataclass(frozen=True)
class Gateway:
    """The dependencies of the routes, and the application over them."""

    tokens: Tokens
    ingest: Ingest
    rankings: Rankings
    tables: Tables
    wall_ms: Callable[[], int]
    ticker: EpochTicker | None = None
    watch: RunWatch | None = None
    limits: RateLimits = field(default_factory=lambda: RateLimits(1000, 2000, time.monotonic))
    keys: SeenKeys = field(default_factory=SeenKeys)
    body_s: float = 10.0  # that a body may take to arrive

    def app(self) -> Starlette:
        """Return the application."""
        handlers: dict[Endpoint, Handler] = {
            endpoints.EVENTS: self._events,
            endpoints.BEST: self._best,
            endpoints.RANK: self._ranked,
            endpoints.EXPLAIN: self._explained,
            endpoints.USER: self._user,
            endpoints.FORGET: self._forget,
            endpoints.RELEASES: self._releases,
            endpoints.ITEM: self._item,
            endpoints.FEEDBACK: self._feedback,
            endpoints.METARANK: self._metarank,
        }
        by_path: dict[str, dict[str, HttpHandler]] = {}
        for each, handler in handlers.items():
            by_path.setdefault(each.path, {})[each.method] = self._route(each, handler)
        routes = [
            Route(path.replace("{item}", "{item:path}"), templated(path, _by_method(found)), methods=[*found])
            for path, found in by_path.items()
        ]
        described = msgspec.json.encode(document())

        async def openapi(_: Request) -> Response:
            return Response(described, media_type="application/json")

        async def health(_: Request) -> Response:
            return json_answer(HealthAnswer())

        async def ready(_: Request) -> Response:
            if self.watch is not None and self.watch.missing:
                raise HTTPException(503, self.watch.missing, {"Retry-After": "1"})
            return json_answer(HealthAnswer())

        plain = {"/healthz": health, "/readyz": ready, "/v1/openapi.json": openapi}
        app = Starlette(
            routes=[*(Route(path, templated(path, found)) for path, found in plain.items()), *routes],
            middleware=[Middleware(Measured)],
            exception_handlers={HTTPException: refuse, Exception: fail},
            lifespan=self._lifespan,
        )
        app.router.redirect_slashes = False  # a redirect would not know a proxy's scheme
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each.run()) for each in (self.ticker, self.watch) if each is not None]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self.ingest.close)

    def _route(self, endpoint: Endpoint, handle: Handler) -> HttpHandler:
        """Return the route of a handler that only a token with the scope, for the user of the path, reaches."""

        async def route(request: Request) -> Response:
            kind, _, presented = request.headers.get("authorization", "").partition(" ")
            token = self.tokens.find(presented) if kind.lower() == "bearer" else None
            if token is None:
                raise HTTPException(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"})
            if wait := self.limits.take(token.name):
                raise HTTPException(429, "too many requests with this token", {"Retry-After": str(math.ceil(wait))})
            user = request.path_params.get("user", "")
            _admit(token, endpoint, user or token.user)
            try:
                check_path(request.scope.get("raw_path") or b"")  # ASGI servers may leave it out
                if "user" in request.path_params:
                    check_user(user)
                with self.ingest.tracing.request(f"{endpoint.method} {endpoint.path}", request.headers):
                    return json_answer(await handle(Call(request, token, user)), endpoint.status)
            except (BodyError, RecordError, msgspec.ValidationError) as error:
                raise HTTPException(422, str(error)) from error
            except (UnacknowledgedError, NoRankingError, *DATABASE_UNAVAILABLE) as error:
                log.warning("not acknowledged, or not answered: %s", error)
                late = _LATE.get(type(error), "the database has not")
                raise HTTPException(
                    503, f"{late} answered: send the same request again", {"Retry-After": "1"}
                ) from error

        return route

    async def _events(self, call: Call) -> EventsAnswer:
        sent = await read_body(call.request, _EVENTS, self.body_s)
        key = call.request.headers.get("idempotency-key")
        if key is not None and not (0 < len(key) <= MAX_NAME and key.isprintable()):
            raise BodyError(f"Idempotency-Key: 1 to {MAX_NAME} printable characters")
        if key is not None and sent.seq is not None:
            raise BodyError("seq and Idempotency-Key exclude each other - at `$.seq`")
        body = 0 if key is None else body_hash(sent)
        if key is not None and self.keys.is_of_another(call.user, key, body):
            raise BodyError("Idempotency-Key: it came with other events before")
        numbered = sent.seq if sent.seq is not None else key or secrets.token_urlsafe(12)
        after = await self._accept(call.user, numbered, sent.events, body)
        named = numbered if isinstance(numbered, str) else None
        return EventsAnswer(call.user, len(sent.events), None if named else after, named)

    async def _accept(
        self, user: str, numbered: int | str, events: list[Event], body: int, *, seen: bool = False
    ) -> int:
        """Send events to Kafka; return the number after the last one, if they are numbered. `body`: its hash, or 0."""

        def listed(ranking: str) -> list[str] | None:
            found = self.rankings.find(ranking)
            return None if found is None or found.user != user else shown(found, self.tables.names)

        batch = await run_in_threadpool(batch_of, user, numbered, events, self.wall_ms(), listed, seen=seen, body=body)
        await self.ingest.put(user, batch)
        telemetry.GATEWAY_EVENTS.inc(len(batch.items))
        return batch.seq + len(batch.items)

    async def _feedback(self, call: Call) -> metarank.FeedbackAnswer:
        began = self.wall_ms()
        body = await read_body(call.request, metarank.FEEDBACKS, self.body_s)
        sent = body if isinstance(body, list) else [body]
        for found in sent:
            if some := metarank.events(found, lambda ranking: self.rankings.find(ranking) is not None):
                user = metarank.owner(found)
                check_user(user)
                _admit(call.token, endpoints.FEEDBACK, user)
                await self._accept(user, f"{found.event} {found.id}", some, body_hash(found), seen=True)
        return metarank.FeedbackAnswer(len(sent), "ok", self.wall_ms() - began)

    async def _best(self, call: Call) -> RankingAnswer:
        k = call.request.query_params.get("k", "10")
        if not (k.isascii() and k.isdecimal() and 1 <= int(k[:9]) <= MAX_CANDIDATES):
            raise BodyError(f"k: a number from 1 to {MAX_CANDIDATES}")
        return await self._ranking(call.user, int(k), [], variant_of(call.request.query_params.get("variant")))

    async def _ranked(self, call: Call) -> RankingAnswer:
        sent = await read_body(call.request, _CANDIDATES, self.body_s)
        check_candidates(sent.candidates)
        return await self._ranking(call.user, sent.k, sent.candidates, sent.variant)

    async def _metarank(self, call: Call) -> metarank.RankAnswer:
        began = self.wall_ms()
        sent = await read_body(call.request, metarank.RANK, self.body_s)
        user, items = metarank.owner(sent), [item.id for item in sent.items]
        check_user(user)
        check_candidates(items, "items")
        _admit(call.token, endpoints.METARANK, user)
        ranking = await self._ranking(user, len(items), items, ranking=metarank.ranking_id(user, sent.id))
        return metarank.answered(ranking, self.wall_ms() - began)

    async def _ranking(
        self, user: str, k: int, candidates: list[str], variant: By | None = None, ranking: str = ""
    ) -> RankingAnswer:
        found = await self.rankings.ask(user, k, candidates, variant, ranking)
        telemetry.GATEWAY_RANKINGS.labels("fast" if found.degraded else "whole").inc()
        if ranking and found.names != candidates:
            raise BodyError("a ranking of other items was requested under this id - at `$.id`")
        return await run_in_threadpool(answer, found, self.tables.names)

    async def _explained(self, call: Call) -> msgspec.Struct:
        found = self.rankings.find(call.request.path_params["ranking"])
        if found is None or call.token.user not in (None, found.user):
            raise HTTPException(404, "no such ranking, or not known any more")

        def explained() -> msgspec.Struct:
            seqs = self.tables.last_events(found.user, found.seq)
            return explain(found, self.tables.release(found.versions.release), self.tables.names, *seqs)

        try:
            return await run_in_threadpool(explained)
        except ReleaseError as error:
            raise HTTPException(404, str(error)) from error

    async def _user(self, call: Call) -> msgspec.Struct:
        return await run_in_threadpool(self.tables.user, call.user)

    async def _forget(self, call: Call) -> ForgetAnswer:
        now = self.wall_ms()
        await self.ingest.put(call.user, Forget(call.user, now))
        self.keys.forget(call.user)
        return ForgetAnswer(call.user, now + self.ingest.gone_after_ms)

    async def _releases(self, _: Call) -> msgspec.Struct:
        return ReleasesAnswer(await run_in_threadpool(self.tables.releases))

    async def _item(self, call: Call) -> msgspec.Struct:
        item = call.request.path_params["item"]
        if not 0 < len(item) <= MAX_NAME or "\0" in item:
            raise BodyError(f"item: 1 to {MAX_NAME} characters, no NUL")
        return await run_in_threadpool(self.tables.item, item)


def _admit(token: Token, endpoint: Endpoint, user: str | None) -> None:
    """Raise HTTPException if the token lacks the endpoint's scope, or is restricted to another user than `user`."""
    if endpoint.scope is not None and not token.admits(endpoint.scope, user):
        lacks = not token.admits(endpoint.scope, token.user)
        why = f"has no scope {endpoint.scope}" if lacks else "is for another user"
        raise HTTPException(403, f"token {token.name} {why}")


def _by_method(handlers: Mapping[str, HttpHandler]) -> HttpHandler:
    """Return the route of a path: one for all methods, so that the answer 405 lists them all."""

    async def route(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await handlers[method](request)

    return route
