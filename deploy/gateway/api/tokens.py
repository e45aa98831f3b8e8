"""Bearer tokens: a file of their SHA-256 hashes, each with scopes and, for a device, the only user that it may name.

A token has 256 random bits, so that a plain hash of it can't be guessed back. The file never has a token itself.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from deploy.user_error import UserError
from replay.json_file import write_json

Scope = Literal["ingest", "rank", "admin"]  # send events; ask for rankings; both, and see any user's state


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stored form of a token."""

    name: str  # of its owner, for logs and for removing it
    sha256: str
    scopes: tuple[Scope, ...]
    user: str | None = None  # the only user; None: any

    def admits(self, scope: Scope, user: str | None) -> bool:
        """Return True if the token has the scope and is not restricted to another user than `user` (None: no user)."""
        return (scope in self.scopes or "admin" in self.scopes) and self.user in (None, user)


class Tokens:
    """The tokens of a file."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self.all = tuple(tokens)

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read a file of tokens. Raises UserError if there is none or it is damaged."""
        try:
            return cls(msgspec.json.decode(path.read_bytes(), type=list[Token]))
        except FileNotFoundError as error:
            raise UserError(f"no file {path}: make a token with mc2sf gateway token") from error
        except (OSError, msgspec.DecodeError) as error:
            raise UserError(f"{path} has no tokens: {error}") from error

    def find(self, presented: str) -> Token | None:
        """Return the stored token with the hash of `presented`; compares in constant time."""
        digest = _digest(presented)
        found = None
        for token in self.all:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


def add(path: Path, name: str, scopes: Iterable[Scope], user: str | None) -> str:
    """Add a new token to a file, which is made if there is none; return it. Raises UserError if the name is taken."""
    known = list(Tokens.read(path).all) if path.exists() else []
    if any(token.name == name for token in known):
        raise UserError(f"{path} has a token {name!r}: choose another name, or remove it there")
    token = secrets.token_urlsafe(32)
    write_json(path, [*known, Token(name, _digest(token), tuple(scopes), user)])
    path.chmod(0o600)
    return token


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
