"""One batch of the device worker, from received messages to pending writes, without Kafka.

`DeviceWork` reads the table's rows and changes none of them; see `faust_runtime.worker` for what is done with it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain

from msgspec.structs import replace

from models.mc2sf.tiled_scorer import FastAnswer, FastQuery
from streams.codec import RecordError
from streams.device.batch_counts import ROLE, BatchCounts
from streams.device.decoding import decode
from streams.device.deferred_gru import GruState, compute
from streams.device.epoch_markers import EpochMarkers
from streams.device.gateway_requests import GatewayRequests
from streams.device.index import DeviceIndex
from streams.device.ranking import (
    answers_request,
    check_priors,
    fast_query,
    rank_with_plugins,
    rank_with_priors,
    rank_without_priors,
    training_example,
)
from streams.device.rows import DeviceRows
from streams.device.step import KeyReused, SequenceGap, Step, step
from streams.device.user import Context, DeferredNegativeMemory, User
from streams.faust_runtime.worker import Releases, StatisticsByEpoch
from streams.kafka.message import Message
from streams.kafka.types import RecordPosition
from streams.model_config import view_spec
from streams.plugins.loaded import loaded
from streams.process import telemetry
from streams.process.log_throttle import LogThrottle
from streams.records import DeviceBatch, EpochBegin, Forget, GatewayRequest, RankRequest, SlowPriors
from streams.settings import Settings
from streams.state.device import DevicePartitionState, PendingRequest, request_key, user_key
from streams.state.pending_writes import PendingWrites
from streams.topics import DEVICE_EVENTS, DEVICE_UPLINK, FAST_EXAMPLES, OUTCOMES

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())


class DeviceWork:
    """One batch: decoded at construction, processed once its releases and item statistics are there."""

    def __init__(
        self,
        settings: Settings,
        received: Iterable[Message],
        table: Mapping[bytes, bytes],
        index: DeviceIndex,
        wall: int,
    ) -> None:
        self._settings, self._wall, self._spec = settings, wall, view_spec(settings)
        self._rows = DeviceRows(table, index)
        self._writes = PendingWrites(settings, ROLE, *self._rows.write_order())
        self.fatal = ""
        self._counts = BatchCounts()
        self._scored: dict[RecordPosition, tuple[PendingRequest, FastAnswer]] = {}  # answers of this batch
        self._epoch_markers = EpochMarkers(self._rows, self._writes)
        self._gateway = GatewayRequests(self._rows, self._writes, self._send_up, self._counts.by_kind, wall)
        self._deferred: list[GruState] = []  # of r2s that are sent
        self._contexts: dict[tuple[int, bool], Context] = {}
        self._overdue_before = wall - int(settings.request_timeout_s * 1000)
        self._overdue = [] if settings.lockstep else list(self._overdue_requests())
        self._received = [(message, decode(message, settings)) for message in received]

    def _overdue_requests(self) -> Iterator[tuple[int, bytes, PendingRequest]]:
        for partition, requests in self._rows.index.requests.items():
            for key, (asked_wall, _) in requests.items():
                if asked_wall < self._overdue_before and (request := self._rows.request(key)) is not None:
                    yield partition, key, request

    def required_releases(self) -> set[int | None]:
        """Return the releases that `process` asks for; None is the newest."""
        required: set[int | None] = {request.versions.release for _, _, request in self._overdue}
        partitions: set[int] = set()  # in which users need one
        for message, record in self._received:
            if isinstance(record, DeviceBatch):
                partitions.add(message.partition)
            elif isinstance(record, SlowPriors):
                request = self._rows.request(request_key(record.user, record.seq))
                ranking, _ = self._rows.index.rankings.get(record.ranking, (None, ""))
                required |= {each.versions.release for each in (request, ranking) if each is not None}
            elif isinstance(record, EpochBegin):
                required |= self._releases_of(replace(self._rows.partition(message.partition), release=record.release))
            elif isinstance(record, GatewayRequest):
                partitions.add(message.partition)
        return required.union(*(self._releases_of(self._rows.partition(number)) for number in partitions))

    @staticmethod
    def _releases_of(partition: DevicePartitionState) -> set[int | None]:
        """Return the release of a partition's batches; free-running the newest, and the newest that was used before.

        After a restart, or by another worker's reader, an older release may be the newest for a while.
        """
        return {partition.release} if partition.release is not None else {None, partition.newest}

    def required_item_statistics(self) -> set[int | None]:
        """Return the epochs as of whose end `process` asks for item statistics; None is the newest known."""
        required: set[int | None] = set()
        partitions: set[int] = set()  # in which users need them
        for message, record in self._received:
            if isinstance(record, DeviceBatch):
                partitions.add(message.partition)
            elif isinstance(record, EpochBegin):
                required.add(self._epoch_before(record.epoch))
            elif isinstance(record, GatewayRequest):
                partitions.add(message.partition)
        return required | {self._epoch_before(self._rows.partition(number).begun) for number in partitions}

    def _epoch_before(self, epoch: int) -> int | None:
        return max(epoch, 0) - 1 if self._settings.lockstep else None

    def process(self, releases: Releases, item_statistics: StatisticsByEpoch) -> PendingWrites:
        """Process the batch, or what precedes a gap in the offsets (then `fatal` is set); return its writes."""
        self._score_answers(releases)
        for message, record in self._received:
            self._writes.trace = message.trace
            if message.topic == DEVICE_EVENTS.name and not self._advance_offset(message):
                break
            try:
                if isinstance(record, DeviceBatch):
                    self._apply(message, record, releases, item_statistics)
                elif isinstance(record, RecordError):
                    raise record
                elif isinstance(record, GatewayRequest):
                    context = self._context_of(message, releases, item_statistics)
                    self._gateway.start(message, record, context, releases(context.versions.release))
                elif isinstance(record, Forget):
                    self._gateway.forget(message, record)
                    self._epoch_markers.forward(message.partition)
                elif isinstance(record, SlowPriors) and record.ranking:
                    self._gateway.complete(message, record, releases)
                elif isinstance(record, SlowPriors):
                    self._answer(message, record, releases)
                else:
                    self._contexts.clear()
                    self._counts.markers.append(record)
                    self._epoch_markers.apply(message.partition, record)
            except RecordError as error:
                self._writes.refuse(message, str(error))
        self._writes.trace = ""
        self._expire(releases)
        self._compute_deferred(releases)
        return self._writes

    def _score_answers(self, releases: Releases) -> None:
        """Score all answers of the batch together. `process` decides later, in order, which of them count."""
        queries: defaultdict[int, list[tuple[RecordPosition, PendingRequest, FastQuery]]] = defaultdict(list)
        for message, record in self._received:
            if not isinstance(record, SlowPriors) or record.ranking:
                continue
            request = self._rows.request(request_key(record.user, record.seq))
            if request is None or not answers_request(record, request):
                continue
            with suppress(RecordError):  # refused when its turn comes
                check_priors(record, request, self._settings)
                version = request.versions.release
                query = fast_query(request, record, releases(version))
                queries[version].append((message.position, request, query))
        for version, of_release in queries.items():
            answers = releases(version).scorer.fast_many([query for _, _, query in of_release])
            for (position, request, _), scores in zip(of_release, answers, strict=True):
                self._scored[position] = request, scores

    def _advance_offset(self, message: Message) -> bool:
        """Return True if a device's record is the next of its partition, or a repeat.

        After a gap the process ends and reads again. If the same offset follows again, the log itself has the gap, and
        the worker goes on.
        """
        partition = self._rows.partition(message.partition)
        if message.offset > partition.next:
            gap = f"{message.topic}/{message.partition}: got offset {message.offset}, expected {partition.next}"
            if partition.gap != partition.next:
                self._rows.put_partition(message.partition, replace(partition, gap=partition.next))
                self.fatal = gap
                return False
            log.error("%s: the log itself has no records between", gap)
        if message.offset >= partition.next:
            self._rows.put_partition(message.partition, replace(partition, next=message.offset + 1))
        return True

    def _apply(
        self, message: Message, batch: DeviceBatch, releases: Releases, item_statistics: StatisticsByEpoch
    ) -> None:
        user = self._rows.user(message.key)
        made = self._step(user, batch, self._context_of(message, releases, item_statistics))
        if made.user is not user:
            self._rows.put_user(message.partition, message.key, made.user)
        if made.uplink:
            self._send_up(message, made.uplink)
        for request in made.requests:
            self._rows.put_request(message.partition, request_key(request.user, request.seq), request)
        if made.repeated:
            self._counts.by_kind["repeated"] += made.repeated
        if made.applied:
            self._counts.by_kind["applied"] += made.applied
            if batch.sent_wall:
                self._counts.sent_wall.append(batch.sent_wall)

    def _send_up(self, message: Message, records: Iterable[DeferredNegativeMemory | RankRequest]) -> None:
        for record in records:
            self._writes.send(DEVICE_UPLINK, message.partition, message.key, record)
            self._rows.index.r2_sent.add(message.key)
            if isinstance(record, DeferredNegativeMemory):
                self._deferred.append(record.r2)

    def _step(self, user: User, batch: DeviceBatch, context: Context) -> Step:
        try:
            return step(user, batch, context)
        except (SequenceGap, KeyReused) as refused:
            raise RecordError(str(refused)) from refused
        except Exception as error:
            log.exception("user %r, seq %d", batch.user, batch.seq)
            raise RecordError(f"could not be applied: {error!r}") from error

    def _context_of(self, message: Message, releases: Releases, item_statistics: StatisticsByEpoch) -> Context:
        """Return the context in which a partition's batches are applied until its next marker."""
        number, resend_r2 = message.partition, message.key not in self._rows.index.r2_sent
        if (known := self._contexts.get((number, resend_r2))) is not None:
            return known
        partition = self._rows.partition(number)
        release = max(map(releases, self._releases_of(partition)), key=lambda each: each.manifest.version)
        version = release.manifest.version
        if not self._settings.lockstep and partition.release is None and version != partition.newest:
            self._rows.put_newest_release(number, version)
        context = self._contexts[number, resend_r2] = Context(
            settings=self._settings,
            spec=self._spec,
            epoch=max(partition.begun, 0),
            ended=partition.ended,
            versions=release.manifest.versions,
            catalogue=release.catalogue,
            item_statistics=item_statistics(self._epoch_before(partition.begun)),
            asked_wall=self._wall,
            resend_r2=resend_r2,
        )
        return context

    def _answer(self, message: Message, priors: SlowPriors, releases: Releases) -> None:
        key = request_key(priors.user, priors.seq)
        request = self._rows.request(key)
        if request is None:  # answered before, or its event is not applied yet and will make another request
            self._counts.by_kind["unasked"] += 1
            return
        if not answers_request(priors, request):
            self._counts.by_kind["outdated"] += 1
            return
        check_priors(priors, request, self._settings)
        release, size = releases(request.versions.release), len(message.value)
        scored, scores = self._scored.get(message.position, (None, None))
        if scores is None or scored != request:  # the request was made in this batch
            scores = release.scorer.fast_many([fast_query(request, priors, release)])[0]
        outcome = rank_with_priors(request, priors, scores, size, self._wall)
        outcome = rank_with_plugins(outcome, request, loaded(self._settings.plugins), release)
        self._writes.send(OUTCOMES, message.partition, message.key, outcome)
        if (example := training_example(request, priors, self._settings.seed)) is not None:
            self._writes.send(FAST_EXAMPLES, message.partition, message.key, example)
        self._rows.put_request(message.partition, key, None)
        self._counts.waited_ms.append(self._wall - request.asked_wall)
        self._counts.by_kind["answered"] += 1
        self._counts.by_kind["bytes down"] += size
        self._epoch_markers.forward(message.partition)

    def _expire(self, releases: Releases) -> None:
        """Rank overdue requests by the fast net alone, and drop rankings; there are none in lockstep."""
        self._gateway.expire(self._overdue_before)
        for partition, key, request in self._overdue:
            if self._rows.request(key) is None:
                continue  # answered in this batch
            release = releases(request.versions.release)
            outcome = rank_without_priors(request, release.scorer, release.catalogue, self._wall)
            outcome = rank_with_plugins(outcome, request, loaded(self._settings.plugins), release)
            self._writes.send(OUTCOMES, partition, user_key(request.user), outcome)
            self._rows.put_request(partition, key, None)
            self._counts.by_kind["expired"] += 1
            self._epoch_markers.forward(partition)

    def _compute_deferred(self, releases: Releases) -> None:
        users = ((user.gru_state, user.r2) for user in self._rows.changed_users())
        states = chain(self._deferred, chain.from_iterable(users))
        compute(states, lambda version: ((release := releases(version)).scorer, release.catalogue))

    def count(self, now_ms: int) -> None:
        """Add the batch to the metrics; `now_ms` is when it was durable."""
        telemetry.PENDING.set(sum(map(len, self._rows.index.requests.values())))
        self._counts.observe(now_ms, self._writes)
