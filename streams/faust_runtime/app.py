"""The Faust app of a worker: settings under which it loses no record, and an immediate exit if one could be lost.

Faust 0.15 can commit offsets of work that is not durable, and pass over records. The cures are here and in `consumer`,
`batches`, `outbox` and `state_table`. They rely on private parts of Faust; nothing outside this package does.
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import faust
from faust.transport.drivers import aiokafka as driver

from streams.faust_runtime.consumer import HeldConsumer
from streams.faust_runtime.types import Transport
from streams.settings import Settings

log = logging.getLogger(__name__)

_BATCH_BYTES = 256_000  # of one produce request per partition
EXIT_CODE = 70  # EX_SOFTWARE


def exit_without_commit(reason: str) -> NoReturn:
    """End this process at once without acknowledging anything: its batch will be delivered again."""
    log.critical("%s: ending without committing, the batch will be delivered again", reason)
    logging.shutdown()
    with suppress(OSError):  # a log on a full disk must not keep the process alive
        sys.stderr.flush()
    os._exit(EXIT_CODE)


class IdempotentProducer(driver.Producer):  # type: ignore[misc] # Faust is not typed
    """Faust's producer with idempotence: without it a retry can write a record twice or out of order."""

    def _settings_extra(self) -> dict[str, object]:
        return {"acks": "all", "enable_idempotence": True}


class PlatformApp(faust.App):  # type: ignore[misc] # Faust is not typed
    """A Faust app on `HeldConsumer` and `IdempotentProducer`; `before_connect` is called once."""

    fetch_wait_ms: int

    before_connect: Callable[[], None] = staticmethod(lambda: None)

    async def on_first_start(self) -> None:
        """Call `before_connect`."""
        await super().on_first_start()
        self.before_connect()

    def _new_transport(self) -> Transport:
        transport: Transport = super()._new_transport()
        transport.Consumer = HeldConsumer
        return transport

    def _new_producer_transport(self) -> Transport:
        transport: Transport = super()._new_producer_transport()
        transport.Producer = IdempotentProducer
        return transport


def _credentials(settings: Settings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """Return Faust's form of the connection's security (see `streams/kafka/clients.py`), None for plain text."""
    context = None
    if settings.kafka_security.endswith("SSL"):
        context = ssl.create_default_context(cafile=settings.kafka_ca)
    if settings.kafka_security.startswith("SASL"):
        password = settings.kafka_password.get_secret_value()
        return faust.SASLCredentials(
            username=settings.kafka_user, password=password, mechanism=settings.kafka_mechanism, ssl_context=context
        )
    return context and faust.SSLCredentials(context)


def new_app(settings: Settings, role: str) -> PlatformApp:
    """Return the Faust app of a role of a run, with timeouts that make joins and rebalances take seconds."""
    data = settings.state_dir / f"faust-{role}"
    data.mkdir(parents=True, exist_ok=True)
    app = PlatformApp(
        f"{settings.run}-{role}",
        broker=[f"kafka://{address}" for address in settings.brokers.split(",")],
        broker_credentials=_credentials(settings),
        store="memory://",
        datadir=str(data),
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_disable_leader=True,
        topic_allow_declare=False,  # the topics of a run exist already, and a worker may have no right to create them
        broker_session_timeout=6,
        broker_heartbeat_interval=1,
        broker_rebalance_timeout=8,
        broker_max_poll_interval=settings.poll_interval_s,
        producer_request_timeout=settings.patience_s,
        broker_commit_interval=1,
        stream_wait_empty=True,  # a rebalance waits for the end of the batch in progress
        stream_buffer_maxsize=2 * settings.take_max,
        stream_recovery_delay=0,
        producer_max_batch_size=_BATCH_BYTES,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    app.fetch_wait_ms = settings.fetch_wait_ms
    return app


def run_worker(app: PlatformApp) -> None:
    """Run the app as `faust -A MODULE worker` does, until a signal stops it."""
    app.finalize()
    worker = app.Worker(loglevel="WARN")
    worker.spinner = None  # it turns with every log record, and would have all DEBUG records created
    worker.execute_from_commandline()
