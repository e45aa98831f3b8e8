from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.local.health_probes import UNHEALTHY_AFTER_S, HealthProbes

pytestmark = pytest.mark.process


@contextmanager
def answering(status: int, before: threading.Barrier | None = None) -> Iterator[int]:
    """A process that gives this answer; where there is a barrier, when all of its parties were asked."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if before is not None:
                before.wait()
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_port_that_gives_no_good_answer_for_a_while_is_silent() -> None:
    now = 0.0
    with answering(200) as well, answering(503) as stuck:
        probes = HealthProbes(lambda: [well, stuck], lambda: now)
        for port in (well, stuck):
            probes.began(port)
        probes.probe()
        now = 2 * UNHEALTHY_AFTER_S
        probes.probe()
        assert probes.unhealthy_for(well) is None
        assert probes.unhealthy_for(stuck) is None  # it may still be starting
        now = 1_000.0
        assert probes.unhealthy_for(well) == 1_000.0 - 2 * UNHEALTHY_AFTER_S
        assert probes.unhealthy_for(stuck) == 1_000.0
        probes.close()


def test_processes_that_are_slow_together_are_asked_at_once() -> None:
    together = threading.Barrier(5, timeout=10)
    with ExitStack() as stack:
        ports = [stack.enter_context(answering(200, together)) for _ in range(5)]
        probes = HealthProbes(lambda: ports)
        stack.callback(probes.close)
        probes.probe()
        assert together.n_waiting == 0
        assert not together.broken
        assert len({port for port in ports if port in probes._healthy}) == 5
