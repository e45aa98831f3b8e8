"""What this project adds to Faust: a table whose writes are awaited, a hard end, and a consumer that loses nothing.

Faust 0.15 can commit past work that isn't durable; the cures are here, in `faust_consumer` and in `faust_batches`, and
the rest of the project knows nothing of them. `producer.flush()` is no barrier: `StateTable` collects its changelog,
and the worker awaits the broker's acknowledgements. Private parts of Faust are leant on in these three files and
nowhere else.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import ssl
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams import bus
from streams.faust_consumer import HeldConsumer
from streams.fence import Terms, fenced, unfenced
from streams.health import HEALTH
from streams.local_copy import LocalCopies
from streams.packed import StateError
from streams.settings import Settings

log = logging.getLogger(__name__)

_BATCH_BYTES = 256_000  # of one produce request and partition
EXIT_CODE = 70  # EX_SOFTWARE

KeyValue = tuple[bytes, bytes | None]


def die(reason: str) -> NoReturn:
    """End this process at once, without acknowledging anything: what it was working on is delivered again."""
    log.critical("%s: ending without committing, the batch will be delivered again", reason)
    logging.shutdown()
    with suppress(OSError):  # a log on a full disk must not keep it alive
        sys.stderr.flush()
    os._exit(EXIT_CODE)


class IdempotentProducer(driver.Producer):  # type: ignore[misc]
    """Faust's producer with idempotence: a retry neither doubles nor reorders."""

    def _settings_extra(self) -> dict[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class Delivered(NamedTuple):
    """What one partition was sent, in order, and the offset of the last of it."""

    rows: list[KeyValue]
    last: int


class Outbox:
    """Records on their way: collected in order, sent in batches a partition, awaited until acknowledged.

    `last_alone`: the last record of a partition is a batch of its own. The embedded broker tells as a topic's end the
    first offset of its last batch, plus one; a table restored up to there must not lack the rest of a batch.
    """

    def __init__(self, *, last_alone: bool = False) -> None:
        self._last_alone = last_alone
        self._records: defaultdict[tuple[str, int], list[KeyValue]] = defaultdict(list)

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Add a record at the end of what goes to this partition of this topic."""
        self._records[topic, partition].append((key, value))

    async def deliver(self, app: faust.App) -> dict[tuple[str, int], Delivered]:
        """Send all and wait for the acknowledgements; what was sent to each partition. Raises where one is refused."""
        records, self._records = self._records, defaultdict(list)
        producer = (await app.maybe_start_producer())._ensure_producer()  # noqa: SLF001 - aiokafka's, for whole batches
        delivered = await asyncio.gather(*(self._send(producer, *tp, rows) for tp, rows in records.items()))
        return dict(zip(records, delivered, strict=True))

    async def _send(self, producer: Any, topic: str, partition: int, rows: list[KeyValue]) -> Delivered:
        acknowledgements = []
        batch = producer.create_batch()
        last = 0  # records in the batch sent last
        for i, (key, value) in enumerate(rows, start=1):
            alone = self._last_alone and i == len(rows) > 1
            if alone or batch.append(key=key, value=value, timestamp=None) is None:
                acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
                batch, last = producer.create_batch(), 0
                batch.append(key=key, value=value, timestamp=None)
            last += 1
        acknowledgements.append(await producer.send_batch(batch, topic, partition=partition))
        metadata = await asyncio.gather(*acknowledgements)
        return Delivered(rows, int(metadata[-1].offset) + last - 1)


class StateTable(faust.Table):  # type: ignore[misc]
    """A table of bytes whose changelog is collected and sent by `durable`, and whose keys know their partition.

    `locate(key)` is the partition of a key. Rows of partitions that went to another worker are forgotten at once, so
    that none is stale when the partition comes back. `assigned` counts the assignments that were restored: who keeps an
    index of the rows builds it again when the number changes. With `copies`, a partition's rows are first what its copy
    on this disk says, and the changelog is read from there on.
    """

    def __init__(
        self,
        *args: Any,
        locate: Callable[[bytes], int] | None = None,
        copies: LocalCopies | None = None,
        **kwargs: Any,
    ) -> None:
        self.locate = locate
        self.copies = copies
        self.assigned = 0
        self._mine: set[int] = set()
        self._seen, self._terms = Terms(), dict[int, int]()
        self._changes = Outbox(last_alone=True)
        super().__init__(*args, **kwargs)

    def info(self) -> dict[str, Any]:
        """What Faust clones the table with."""
        return {**super().info(), "locate": self.locate, "copies": self.copies}

    def partition_for_key(self, key: bytes) -> int:
        """The partition of `key`, whatever event is being worked on."""
        assert self.locate is not None
        return self.locate(key)

    def on_key_set(self, key: bytes, value: bytes) -> None:
        """Collect a write for the changelog, under the term of this assignment."""
        partition = self.partition_for_key(key)
        row = fenced(self._terms.get(partition, 0), value)
        self._changes.put(self._changelog_topic_name(), partition, key, row)

    def on_key_del(self, key: bytes) -> None:
        """Collect a deletion for the changelog."""
        self._changes.put(self._changelog_topic_name(), self.partition_for_key(key), key, None)

    async def durable(self) -> None:
        """Wait until the changelog of all writes so far is acknowledged. Raises where the broker refuses."""
        delivered = await self._changes.deliver(self.app)
        if self.copies:
            for (_, partition), (rows, last) in delivered.items():
                self.copies.written(partition, rows, last, self._terms.get(partition, 0))

    def persisted_offset(self, tp: TP) -> int | None:
        """The offset of the changelog behind which the rows in memory have to be read; None: all of it."""
        return self.copies.offset(tp.partition) if self.copies else None

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], *args: Any, **kwargs: Any) -> None:
        """Forget the rows of partitions that are no longer ours."""
        HEALTH.needs("state", "its partitions' state is being restored")
        await super().on_rebalance(assigned, revoked, *args, **kwargs)
        changelog = self._changelog_topic_name()
        mine = {tp.partition for tp in assigned if tp.topic == changelog}
        for gone in set(range(self.partitions)) - mine:  # where it comes back, all of it is read again
            self._seen.forget(gone)
            self.app.tables.recovery.revoke(TP(changelog, gone))  # a rebalance upon a rebalance leaves it out
        for key in [key for key in self.data if self.partition_for_key(key) not in mine]:
            self.data.pop(key, None)
        self._take_copies(mine)

    def _take_copies(self, mine: set[int]) -> None:
        """Let go of the copies of partitions that are no longer ours, and take in those of the ones that are new."""
        lost, new, self._mine = self._mine - mine, mine - self._mine, mine
        if not self.copies:
            return
        for partition in lost:
            self.copies.close(partition)
        for partition in new:
            term, rows = self.copies.load(partition)
            self._seen.admits(partition, term)
            self.data.update(rows)
            log.info("partition %d: %d rows from the copy on this disk", partition, len(rows))

    async def on_recovery_completed(self, *args: Any, **kwargs: Any) -> None:
        """Note that the rows are whole again."""
        await super().on_recovery_completed(*args, **kwargs)
        generation = self.app.consumer_generation_id
        self._terms = {p: self._seen.next(p, generation) for p in range(self.partitions)}
        self.assigned += 1
        HEALTH.needs("state")

    def apply_changelog_batch(self, batch: Any) -> None:
        """Take in rows of the changelog, but for those of a worker that had lost the partition, and garbage."""
        taken: defaultdict[int, list[KeyValue]] = defaultdict(list)
        last: dict[int, int] = {}
        for message in (event.message for event in batch):
            last[message.partition] = message.offset
            if not message.value:
                self.data.pop(message.key, None)
                taken[message.partition].append((message.key, None))
                continue
            try:
                term, row = unfenced(message.value)
            except StateError as error:
                log.warning("%s/%d@%d passed over: %s", *message.tp, message.offset, error)
                continue
            if self._seen.admits(message.partition, term):
                self.data[message.key] = row
                taken[message.partition].append((message.key, message.value))
        if self.copies:
            for partition, offset in last.items():
                self.copies.read(partition, taken[partition], offset, self._seen.newest(partition))
        HEALTH.progress()


class PlatformApp(faust.App):  # type: ignore[misc]
    """A Faust app on the consumer and the producer above; `before` is called once, before it connects."""

    before: Callable[[], None] = staticmethod(lambda: None)

    async def on_first_start(self) -> None:
        """Begin what runs beside the app."""
        await super().on_first_start()
        self.before()

    def _new_transport(self) -> Any:
        transport = super()._new_transport()
        transport.Consumer = HeldConsumer
        return transport

    def _new_producer_transport(self) -> Any:
        transport = super()._new_producer_transport()
        transport.Producer = IdempotentProducer
        return transport


def _credentials(settings: Settings) -> Any:
    """What Faust needs to know of `kafka.access`; None for a plain connection."""
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
    """The Faust app of a role of a run, with timeouts that make joins and rebalances take seconds."""
    data = settings.state_dir / f"faust-{role}"
    data.mkdir(parents=True, exist_ok=True)
    return PlatformApp(
        f"{settings.run}-{role}",
        broker=[f"kafka://{address}" for address in settings.brokers.split(",")],
        broker_credentials=_credentials(settings),
        store="memory://",
        datadir=str(data),
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_disable_leader=True,
        topic_allow_declare=False,  # the topics of a run are there already, and a worker need not be allowed to
        broker_session_timeout=6,
        broker_heartbeat_interval=1,
        broker_rebalance_timeout=8,
        broker_max_poll_interval=settings.poll_interval_s,
        producer_request_timeout=settings.patience_s,
        broker_commit_interval=1,
        stream_wait_empty=True,  # partitions are given away when the batch in work is done, not in the middle of it
        stream_buffer_maxsize=2 * settings.take_max,
        stream_recovery_delay=0,
        producer_max_batch_size=_BATCH_BYTES,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
        worker_redirect_stdouts=False,
    )


def state_table(app: PlatformApp, settings: Settings, name: str, locate: Callable[[bytes], int]) -> StateTable:
    """The one table of a worker, partitioned as its source topics are."""
    copies = None
    if settings.local_copy:
        life = functools.partial(bus.topic_id, settings, f"{app.conf.id}-{name}-changelog")
        copies = LocalCopies(Path(app.conf.datadir) / "copies", life)
    table = StateTable(
        app, name=name, key_type=bytes, value_type=bytes, partitions=settings.partitions, locate=locate, copies=copies
    )
    app.tables.add(table)
    return table


def run_worker(app: PlatformApp) -> None:
    """Run the app as `faust -A MODULE worker` does, until a signal stops it."""
    app.finalize()
    worker = app.Worker(loglevel="WARN")
    worker.spinner = None  # it would turn to every log record, and have all of DEBUG made for that
    worker.execute_from_commandline()
