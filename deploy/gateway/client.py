"""A client of the gateway that needs only the standard library, so that this file can be copied into other projects.

client = Client("http://127.0.0.1:8080", token)
ranking = client.best("ada", k=10)
client.events("ada", [{"item": ranking["items"][0]["item"], "kind": "click", "ranking": ranking["ranking"]}])
"""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote, urlsplit

Json = dict[str, Any]
REPEATED = (429, 502, 503, 504)  # 502 and 504 are those of a proxy before the gateway


class GatewayError(RuntimeError):
    """The gateway has refused a request; `status` is its HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status}: {sentence}")
        self.status = status


class Client:
    """Sends requests over one connection, one after another. Close it, or use it as a context.

    Requests that the gateway could not serve are repeated every `pause_s` for `patience_s` seconds; repeated events are
    applied once.
    """

    def __init__(
        self, url: str, token: str, *, timeout_s: float = 10.0, patience_s: float = 30.0, pause_s: float = 0.2
    ) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
        self._prefix, self._patience_s, self._pause_s = parts.path.rstrip("/"), patience_s, pause_s
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def events(self, user: str, events: Sequence[Mapping[str, object]], seq: int | None = None) -> Json:
        """Send events, which Kafka has at return. Raises GatewayError, OSError."""
        body: Json = {"events": list(events)} | ({} if seq is None else {"seq": seq})
        key = {} if seq is not None else {"Idempotency-Key": uuid.uuid4().hex}
        return self._ask("POST", f"/v1/users/{quote(user, safe='')}/events", body, key)

    def rank(self, user: str, candidates: Sequence[str], k: int | None = None) -> Json:
        """Return a ranking of candidates, the best k or all. Raises GatewayError, OSError."""
        body: Json = {"candidates": list(candidates)} | ({} if k is None else {"k": k})
        return self._ask("POST", f"/v1/users/{quote(user, safe='')}/rankings", body)

    def best(self, user: str, k: int = 10) -> Json:
        """Return the best k items of the catalogue. Raises GatewayError, OSError."""
        return self._ask("GET", f"/v1/users/{quote(user, safe='')}/rankings?k={k}")

    def explain(self, ranking: str) -> Json:
        """Return the explanation of a ranking. Raises GatewayError, OSError."""
        return self._ask("GET", f"/v1/rankings/{quote(ranking, safe='')}")

    def get(self, path: str) -> Json:
        """Return what is at another path, such as /v1/releases. Raises GatewayError, OSError."""
        return self._ask("GET", path)

    def _ask(self, method: str, path: str, body: Json | None = None, headers: Mapping[str, str] | None = None) -> Json:
        data = None if body is None else json.dumps(body)
        until = time.monotonic() + self._patience_s
        while True:
            try:
                self._connection.request(method, self._prefix + path, data, {**self._headers, **(headers or {})})
                answer = self._connection.getresponse()
                received = answer.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()  # the next request opens it again
                if time.monotonic() > until:
                    raise
            else:
                found = _object(received)
                if answer.status < 300 and found is not None:
                    return found
                if answer.status not in REPEATED or time.monotonic() > until:
                    raise GatewayError(
                        answer.status, "no answer of a gateway" if found is None else found.get("error", "")
                    )
            time.sleep(self._pause_s)


def _object(received: bytes) -> Json | None:
    """Return the JSON object in a body; None for another body, such as the page of a proxy."""
    try:
        found = json.loads(received)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
