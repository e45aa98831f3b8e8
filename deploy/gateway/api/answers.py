"""Answers in JSON, and the handlers that make one of an error."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from deploy.gateway.api.bodies import ErrorAnswer


def json_answer(content: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


async def refuse(request: Request, error: Exception) -> Response:
    """Return the sentence of an HTTPException."""
    assert isinstance(error, HTTPException)
    said = error.detail
    if said == HTTPStatus.NOT_FOUND.phrase:  # of the router
        slash = b"%2f" in (request.scope.get("raw_path") or b"").lower()
        said = "no such path: a name in it has no slash (%2F)" if slash else "no such path: see /v1/openapi.json"
    return json_answer(ErrorAnswer(said), error.status_code, error.headers)


async def fail(_: Request, _error: Exception) -> Response:
    """Return a sentence about an error that is the gateway's."""
    return json_answer(ErrorAnswer("internal error of the gateway: see its log"), 500)
