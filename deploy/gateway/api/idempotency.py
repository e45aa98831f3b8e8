"""Idempotency keys that a gateway has seen, to refuse one that comes with other events: its memory, not the run's."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import msgspec

KEPT = 50_000


class SeenKeys:
    """The bodies of the last `kept` keys, as hashes."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._bodies: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def is_of_another(self, user: str, key: str, body: msgspec.Struct) -> bool:
        """Return True if the user's key came with another body before; else note it."""
        digest = hashlib.blake2b(msgspec.json.encode(body), digest_size=16).digest()
        seen = self._bodies.setdefault((user, key), digest)
        while len(self._bodies) > self._kept:
            self._bodies.popitem(last=False)
        return seen != digest

    def forget(self, user: str) -> None:
        """Forget the keys of a user."""
        for each in [each for each in self._bodies if each[0] == user]:
            del self._bodies[each]
