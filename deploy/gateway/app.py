"""The gateway's routes: who may, what is in the body, what becomes of it. No arithmetic, no Kafka, no SQL in here.

Whatever is wrong with a request is answered in JSON: `{"error": sentence}`, which names the field if there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.gateway.bodies import MAX_BODY, BodyError, Candidates, Events, check_user
from deploy.gateway.epoch_ticker import EpochTicker
from deploy.gateway.ingest import Ingest, UnacknowledgedError
from deploy.gateway.tokens import Scope, Tokens
from deploy.recommend import Recommendation
from deploy.user_error import UserError

log = logging.getLogger(__name__)
T = TypeVar("T")

Rank = Callable[[str, int, list[str] | None], Recommendation]  # user, k, candidates
MAX_K = 1000


@dataclass(frozen=True)
class Gateway:
    """The dependencies of the routes, and the application over them."""

    tokens: Tokens
    ingest: Ingest
    rank: Rank
    next_seq: Callable[[str], int]
    wall_ms: Callable[[], int]
    ticker: EpochTicker | None = None

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/healthz", self._health),
                Route("/v1/users/{user}", self._admitted("admin", self._user)),
                Route("/v1/users/{user}/events", self._admitted("ingest", self._events), methods=["POST"]),
                Route("/v1/users/{user}/rankings", self._admitted("rank", self._best)),
                Route("/v1/users/{user}/rankings", self._admitted("rank", self._ranked), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _refuse, Exception: _fail},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        ticking = asyncio.create_task(self.ticker.run()) if self.ticker else None
        yield
        if ticking is not None:
            ticking.cancel()
            await asyncio.wait([ticking])
        await asyncio.to_thread(self.ingest.close)

    def _admitted(
        self, scope: Scope, handle: Callable[[str, Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the route of a handler that only a token with the scope, for the user of the path, reaches."""

        async def route(request: Request) -> Response:
            kind, _, presented = request.headers.get("authorization", "").partition(" ")
            token = self.tokens.find(presented) if kind.lower() == "bearer" else None
            if token is None:
                raise HTTPException(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"})
            user = request.path_params["user"]
            if not token.admits(scope, user):
                raise HTTPException(403, f"token {token.name} may not {scope} for this user")
            try:
                check_user(user)
                return await handle(user, request)
            except (BodyError, msgspec.ValidationError) as error:
                raise HTTPException(422, str(error)) from error
            except UserError as error:
                raise HTTPException(404, str(error)) from error
            except UnacknowledgedError as error:
                log.warning("not acknowledged: %s", error)
                sentence = "the broker has not acknowledged it: send the same again"
                raise HTTPException(503, sentence, {"Retry-After": "1"}) from error

        return route

    async def _health(self, _: Request) -> Response:
        return _json({"status": "ok"})

    async def _user(self, user: str, _: Request) -> Response:
        return _json({"user": user, "next_seq": await run_in_threadpool(self.next_seq, user)})

    async def _events(self, user: str, request: Request) -> Response:
        sent = await _body(request, Events)
        batch = sent.batch(user, self.wall_ms())
        await self.ingest.put(user, batch)
        if self.ticker is not None:
            self.ticker.reached = max(self.ticker.reached, batch.times[-1])
        return _json({"user": user, "accepted": len(sent.events), "next_seq": sent.seq + len(sent.events)}, 202)

    async def _best(self, user: str, request: Request) -> Response:
        k = request.query_params.get("k", "10")
        if not (k.isascii() and k.isdecimal() and 1 <= int(k[:9]) <= MAX_K):
            raise BodyError(f"k: a number from 1 to {MAX_K}")
        return await self._ranking(user, int(k), None)

    async def _ranked(self, user: str, request: Request) -> Response:
        sent = await _body(request, Candidates)
        return await self._ranking(user, len(sent.candidates), sent.candidates)

    async def _ranking(self, user: str, k: int, candidates: list[str] | None) -> Response:
        found = await run_in_threadpool(self.rank, user, k, candidates)
        return _json(
            {
                "user": user,
                "items": [{"item": each.item, "score": each.score} for each in found.items],
                "release": found.release,
                "variant": found.by,
                "known_until_epoch": found.epoch,
            }
        )


async def _body(request: Request, kind: type[T]) -> T:
    """Return the body of a request. Raises HTTPException if it is too large or no JSON, ValidationError for a field."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise HTTPException(413, f"a body has at most {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error


def _json(answer: dict[str, object], status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, media_type="application/json")


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _json({"error": error.detail}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _fail(_: Request, _error: Exception) -> Response:
    return _json({"error": "an error of the gateway; its log says more"}, 500)
