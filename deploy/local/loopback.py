"""HTTP requests to processes of a run. They never go through a proxy, whatever `http_proxy` says."""

from __future__ import annotations

import urllib.request

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(address: int | str, path: str, timeout_s: float) -> str:
    """Return the body of a page of HOST:PORT; a number alone is a port of 127.0.0.1.

    Raises OSError without an answer, or for a status above 299.
    """
    host = f"127.0.0.1:{address}" if isinstance(address, int) else address
    with _opener.open(f"http://{host}{path}", timeout=timeout_s) as answer:
        body: bytes = answer.read()
    return body.decode()
