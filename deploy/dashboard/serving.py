"""Serve the live page: beside a run, in a thread of its process, or on its own."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from rich.console import Console

from deploy.dashboard.app import Page
from deploy.dashboard.live import Live
from deploy.dashboard.scraper import Scraper
from deploy.gateway.api.tokens import Tokens
from deploy.listening_socket import listen
from deploy.local.supervisor import TARGETS
from deploy.runs import FoundRun
from deploy.user_error import UserError

_GRACE_S = 2


def admin_of(tokens: Path) -> Callable[[str], bool]:
    """Return a check of tokens by the file of a gateway. Raises UserError if no token in it is an admin's.

    The page shows every user, so a token that is restricted to one is no admin's here.
    """
    known = Tokens.read(tokens)
    if not any(token.admits("admin", None) for token in known.all):
        raise UserError(
            f"{tokens} has no token of an admin of all users: add one with "
            f"mc2sf gateway token NAME --tokens {tokens} --admin"
        )

    def admits(presented: str) -> bool:
        token = known.find(presented)
        return token is not None and token.admits("admin", None)

    return admits


@contextmanager
def live_page(
    found: FoundRun,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    targets: Path | None = None,
    admits: Callable[[str], bool] | None = None,
) -> Iterator[str]:
    """Serve the page of a run from a thread, and yield its address. Raises UserError if the port is taken.

    Without `admits` a new token is created and put into the fragment of the address, which browsers send to no server.
    """
    token = secrets.token_urlsafe(16)
    if targets is None and found.folder is not None:
        targets = found.folder / "logs" / TARGETS
    stop = threading.Event()
    page = Page(
        Live(found, Scraper(targets)),
        admits or (lambda presented: hmac.compare_digest(presented.encode(), token.encode())),
        ["127.0.0.1", "localhost", host],
        stop,
    )
    listening = listen(host, port, "the live page")
    server = uvicorn.Server(
        uvicorn.Config(
            page.app(), log_level="warning", server_header=False, timeout_graceful_shutdown=_GRACE_S, lifespan="off"
        )
    )
    thread = threading.Thread(target=server.run, args=([listening],), name="live-page", daemon=True)
    thread.start()
    address = f"http://{host}:{listening.getsockname()[1]}/"
    try:
        yield address if admits else f"{address}#token={token}"
    finally:
        stop.set()
        server.should_exit = True
        thread.join(2 * _GRACE_S)


def print_address(console: Console, address: str) -> None:
    """Print the address of a live page; its token is printed on a terminal only, so that no log has it."""
    shown = address if console.is_terminal else address.partition("#")[0]
    console.print(f"live page: {shown}", soft_wrap=True)
