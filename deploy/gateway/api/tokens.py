"""Bearer tokens: a file of their SHA-256 hashes, each with scopes and, for a device, the only user that it may name.

A token has 256 random bits, so that a plain hash of it can't be guessed back. The file never has a token itself.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from deploy.gateway.api.bodies import Name
from deploy.user_error import UserError
from replay.json_file import write_json

Scope = Literal["ingest", "rank", "admin"]  # send events; ask for rankings; both, and see any user's state
_ADD = "add one with mc2sf gateway token NAME --tokens"


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stored form of a token."""

    name: Annotated[str, Meta(min_length=1)]  # of its owner, for logs and for removing it
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    user: Name | None = None  # the only user; None: any

    def admits(self, scope: Scope, user: str | None) -> bool:
        """Return True if the token has the scope and is not restricted to another user than `user` (None: no user)."""
        return (scope in self.scopes or "admin" in self.scopes) and self.user in (None, user)


class Tokens:
    """The tokens of a file."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self.all = tuple(tokens)

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read a file of tokens. Raises UserError if there is none, or it is damaged or without a token."""
        if not path.exists():
            raise UserError(f"no file {path}: {_ADD} {path}")
        tokens = _stored(path)
        if not tokens:
            raise UserError(f"{path} has no token, so every request would be refused: {_ADD} {path}")
        return cls(tokens)

    def find(self, presented: str) -> Token | None:
        """Return the stored token with the hash of `presented`; compares in constant time."""
        digest = _digest(presented)
        found = None
        for token in self.all:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


def _stored(path: Path) -> list[Token]:
    """Return the tokens of a file. Raises UserError if it is damaged, or two tokens have one name or hash."""
    try:
        tokens = msgspec.json.decode(path.read_bytes(), type=list[Token])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no file of tokens: {error}") from error
    first: dict[str, int] = {}
    for i, token in enumerate(tokens):
        for field, value in (("name", token.name), ("sha256", token.sha256)):
            if (other := first.setdefault(f"{field} {value}", i)) != i:
                raise UserError(f"{path} has one {field} twice, in `$[{other}]` and `$[{i}]`: delete one of them")
    return tokens


def add(path: Path, name: str, scopes: Iterable[Scope], user: str | None) -> str:
    """Add a new token to a file, which is made if there is none; return it. Raises UserError if the name is taken."""
    known = _stored(path) if path.exists() else []
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for the file {path.name}")
    if any(token.name == name for token in known):
        raise UserError(f"{path} has a token {name!r}: choose another name, or remove it there")
    token = secrets.token_urlsafe(32)
    write_json(path, [*known, Token(name, _digest(token), tuple(scopes), user)])
    path.chmod(0o600)
    return token


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
