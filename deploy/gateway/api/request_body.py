"""Reading of request bodies, within limits of size and time."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from deploy.gateway.api.bodies import MAX_BODY

T = TypeVar("T")


async def read_body(request: Request, form: msgspec.json.Decoder[T], within_s: float) -> T:
    """Return the body of a request, which may take `within_s` to arrive.

    Raises HTTPException if it is no JSON, compressed, too large or too slow, msgspec.ValidationError if a field is
    wrong.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise HTTPException(415, f"Content-Encoding: send the body as it is, not as {encoding}")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:9]) > MAX_BODY:
        raise HTTPException(413, f"a body has at most {MAX_BODY} bytes")
    data = b""
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BODY:
                    raise HTTPException(413, f"a body has at most {MAX_BODY} bytes")
    except TimeoutError as error:
        close = {"Connection": "close"}  # else the connection waits for the rest of the body
        raise HTTPException(408, f"a body arrives within {within_s:g} s", close) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the body ended early") from error
    try:
        return form.decode(data)
    except msgspec.ValidationError:  # of the fields; it is a DecodeError too
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error
