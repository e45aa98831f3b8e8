"""The embedded broker as a server of tests and benchmarks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.broker import await_broker, broker_command, free_port


@contextmanager
def embedded_broker(log: Path) -> Iterator[str]:
    """Start the embedded broker and yield its address; its data are lost at the end."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(broker_command(port), stdout=output, stderr=output, start_new_session=True)
    try:
        await_broker(brokers := f"127.0.0.1:{port}")
        yield brokers
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
