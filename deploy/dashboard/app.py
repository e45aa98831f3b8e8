"""The routes of the live page: the page and its events for anyone who reaches it, controls and users for an admin.

A control needs the token in a header, so that no other page in the same browser can use it. The Host header of a
request must name the address that the page is served at, which prevents DNS rebinding.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy.dashboard import users
from deploy.dashboard.live import REFRESH_S, Live
from deploy.user_error import UserError
from replay.send.clock_file import ReplayChange
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.releases.candidates import CandidateError, request_rollback

_MAX_BODY = 1000
# nothing is loaded and only the page's own script runs: an unescaped name could do no harm
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{}'; connect-src 'self'; img-src data:"


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The release to be published again."""

    version: int


class Page:
    """The routes of the page. `admits` returns True for the token of an admin."""

    def __init__(
        self,
        live: Live,
        admits: Callable[[str], bool],
        hosts: Sequence[str],
        stop: threading.Event,
        refresh_s: float = REFRESH_S,
    ) -> None:
        self._live, self._admits, self._hosts, self._stop = live, admits, hosts, stop
        self._refresh_s = refresh_s

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/events", self._events),
                Route("/user", self._admin(self._user)),
                Route("/replay", self._admin(self._replay), methods=["POST"]),
                Route("/rollback", self._admin(self._rollback), methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=self._hosts, www_redirect=False)],
            exception_handlers={HTTPException: _refuse},
        )

    def _admin(self, handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def route(request: Request) -> Response:
            kind, _, presented = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not self._admits(presented):
                raise HTTPException(401, "the token of an admin is needed", {"WWW-Authenticate": "Bearer"})
            try:
                return await handle(request)
            except (UserError, CandidateError, msgspec.MsgspecError) as error:
                raise HTTPException(422, str(error)) from error
            except DATABASE_UNAVAILABLE as error:
                raise HTTPException(503, "the database does not answer") from error

        return route

    async def _page(self, _: Request) -> Response:
        nonce, html = await run_in_threadpool(self._live.page)
        policy = _POLICY.format(nonce)
        return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    async def _events(self, _: Request) -> Response:
        return StreamingResponse(self._changes(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _changes(self) -> AsyncIterator[bytes]:
        """Yield the pieces of the page that have changed, as server-sent events."""
        sent: dict[str, str] = {}
        while not self._stop.is_set():
            sections = await run_in_threadpool(self._live.sections)
            changed = {name: html for name, html in sections.items() if sent.get(name) != html}
            yield b"data: " + msgspec.json.encode(changed) + b"\n\n"
            sent = sections
            await asyncio.sleep(self._refresh_s)
        yield b"event: end\ndata:\n\n"

    async def _user(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        found = await run_in_threadpool(users.look_up, self._live.found, name)
        return HTMLResponse(self._live.render("user", user=found))

    async def _replay(self, request: Request) -> Response:
        change = msgspec.json.decode(await _body(request), type=ReplayChange)
        control = await run_in_threadpool(self._live.control_replay, change)
        if control.paused:
            return PlainTextResponse("paused")
        return PlainTextResponse("the replay skips" if change.skip_to else "the replay goes on")

    async def _rollback(self, request: Request) -> Response:
        version = msgspec.json.decode(await _body(request), type=Rollback).version

        def ask() -> None:
            with self._live.found.engine.begin() as connection:
                request_rollback(connection, self._live.found.settings.run, version)

        await run_in_threadpool(ask)
        return PlainTextResponse(f"release {version} is published under a new version at the next decision")


async def _body(request: Request) -> bytes:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            raise HTTPException(413, f"a body has at most {_MAX_BODY} bytes")
    return data


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(error.detail, error.status_code, dict(error.headers or {}))
