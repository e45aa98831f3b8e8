"""HTTP requests to processes on this machine. They never go through a proxy, whatever `http_proxy` says."""

from __future__ import annotations

import urllib.request

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(port: int, path: str, timeout_s: float) -> str:
    """Return the body of a page of 127.0.0.1:`port`. Raises OSError without an answer, or for a status above 299."""
    with _opener.open(f"http://127.0.0.1:{port}{path}", timeout=timeout_s) as answer:
        body: bytes = answer.read()
    return body.decode()
