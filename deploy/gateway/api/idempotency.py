"""Idempotency keys that a gateway has seen, to refuse one that comes with other events.

The device worker knows the keys of all gateways, as their records have the hash of the body, but only later: there such
events become a dead letter.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import msgspec

KEPT = 50_000


def body_hash(body: msgspec.Struct) -> int:
    """Return a 63-bit hash of a request's body, the same for any order of its fields; never 0."""
    digest = hashlib.blake2b(msgspec.json.encode(body), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 or 1


class SeenKeys:
    """The bodies of the last `kept` keys, as hashes."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._bodies: OrderedDict[tuple[str, str], int] = OrderedDict()

    def is_of_another(self, user: str, key: str, body: int) -> bool:
        """Return True if the user's key came with a body of another hash before; else note it."""
        seen = self._bodies.setdefault((user, key), body)
        while len(self._bodies) > self._kept:
            self._bodies.popitem(last=False)
        return seen != body

    def forget(self, user: str) -> None:
        """Forget the keys of a user."""
        for each in [each for each in self._bodies if each[0] == user]:
            del self._bodies[each]
