"""The listening socket of an HTTP server of this project."""

from __future__ import annotations

import socket

from deploy.user_error import UserError


def listen(host: str, port: int, server: str) -> socket.socket:
    """Return a socket that listens on `host`:`port`; 0 is a free port. Raises UserError, which names `server`.

    Connections inherit TCP_NODELAY from it: an answer is written in two parts, and with Nagle's algorithm the second
    would wait 40 ms until the client acknowledges the first. asyncio sets it only on sockets of its own.
    """
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise UserError(f"{server} can't listen on {host}:{port}: {reason}") from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
