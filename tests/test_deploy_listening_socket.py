from __future__ import annotations

import socket
from contextlib import closing

import pytest

from deploy.listening_socket import listen
from deploy.user_error import UserError

pytestmark = pytest.mark.process


def test_connections_send_without_waiting_for_acknowledgements() -> None:
    with closing(listen("127.0.0.1", 0, "the page")) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_port_is_named() -> None:
    with closing(listen("127.0.0.1", 0, "the page")) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(UserError, match=f"the page can't listen on 127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port, "the page")
