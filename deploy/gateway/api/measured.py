"""Measurement of a gateway's requests, for Prometheus: by the template of their path, never by the path itself."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.process import telemetry

_TEMPLATE = "mc2sf.template"
_UNKNOWN = "other"  # path or method that the gateway does not have: clients choose them, so they are no labels

HttpHandler = Callable[[Request], Awaitable[Response]]


def templated(path: str, handle: HttpHandler) -> HttpHandler:
    """Return the handler of a path that notes the path's template for `Measured`."""

    async def route(request: Request) -> Response:
        request.scope[_TEMPLATE] = path
        return await handle(request)

    return route


class Measured:
    """Counts the requests of an application, and takes the time of those that are not refused (4xx)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500  # if the application raises

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            template = scope.get(_TEMPLATE, _UNKNOWN)
            method = scope["method"] if template != _UNKNOWN else _UNKNOWN
            telemetry.GATEWAY_REQUESTS.labels(template, method, str(status)).inc()
            if not 400 <= status < 500:
                telemetry.GATEWAY_SECONDS.labels(template, method).observe(time.monotonic() - began)
