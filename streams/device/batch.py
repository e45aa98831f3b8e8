"""A batch of the device worker, from what was received to what is to be sent and written: everything but Kafka.

`DeviceWork` reads a mapping with the table's rows and changes neither it nor anything else; see `worker.Work` for
what is done with it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from streams.codec import Reader, RecordError, Tensor, encode
from streams.device.index import DeviceIndex
from streams.device.pending_writes import DeviceChanges
from streams.device.ranking import answered, answers, check, expired
from streams.device.step import Context, SequenceGap, Step, User, step
from streams.faust_runtime.worker import Releases, Standings
from streams.kafka.message import Message, check_batch
from streams.model_config import view_spec
from streams.process import telemetry
from streams.process.log_throttle import LogThrottle
from streams.records import ClickUpload, DeviceBatch, DeviceEvent, EndOfLog, EpochBegin, EpochEnd, Mark, SlowPriors
from streams.settings import Settings
from streams.state.device import Pending, keys_bytes, pending_key, user_key
from streams.topics import CLOUD_DOWNLINK, DEAD_LETTERS, DEVICE_EVENTS, DEVICE_UPLINK, FAST_EXAMPLES, OUTCOMES

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())

ROLE = "device"

_events: Reader[DeviceEvent] = Reader(DeviceEvent)
_priors: Reader[SlowPriors] = Reader(SlowPriors)


class DeviceWork:
    """One batch. Made from what was received; `needs` says which releases `run` must be given."""

    def __init__(
        self,
        settings: Settings,
        received: Iterable[Message],
        rows: Mapping[bytes, bytes],
        index: DeviceIndex,
        wall: int,
    ) -> None:
        self._settings, self._wall, self._spec = settings, wall, view_spec(settings)
        self._changes = DeviceChanges(settings, rows, index)
        self.records, self.rows = self._changes.records, self._changes.rows
        self.fatal = ""  # records were passed over: the process must end without acknowledging this batch
        self._sent_wall: list[int] = []  # of each record applied
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._marks: list[Mark] = []
        self._contexts: dict[tuple[int, bool], Context] = {}
        self._late = [] if settings.lockstep else list(self._overdue())
        self._read = [(r, self._decoded(r)) for r in received]

    def _decoded(self, received: Message) -> DeviceEvent | SlowPriors | RecordError:
        try:
            if received.topic == CLOUD_DOWNLINK.name:
                priors = _priors.decode(received.value)
                received.check_user(priors.user, self._settings.partitions)
                return priors
            event = _events.decode(received.value)
            if isinstance(event, DeviceBatch):
                received.check_user(event.user, self._settings.partitions)
                check_batch(event)
        except RecordError as error:
            return error
        return event

    def _overdue(self) -> Iterable[tuple[int, bytes, Pending]]:
        limit = self._wall - int(self._settings.request_timeout_s * 1000)
        for part, asked in self._changes.index.pending.items():
            for key, when in asked.items():
                if when < limit and (pending := self._changes.asked(part, key)) is not None:
                    yield part, key, pending

    def needs(self) -> set[int | None]:
        """The releases that this batch is worked off with; None stands for the newest."""
        wanted: set[int | None] = {pending.versions.release for _, _, pending in self._late}
        for received, record in self._read:
            if isinstance(record, SlowPriors):
                pending = self._changes.asked(received.partition, pending_key(record.user, record.seq))
                if pending is not None:
                    wanted.add(pending.versions.release)
            elif isinstance(record, EpochBegin):
                wanted.add(record.release)
            elif isinstance(record, DeviceBatch):
                wanted.add(self._changes.partition(received.partition).release)
        return wanted

    def standings(self) -> set[int | None]:
        """The epochs after which this batch asks how items stood; None stands for the newest that is known."""
        wanted: set[int | None] = set()
        for received, record in self._read:
            if isinstance(record, EpochBegin):
                wanted.add(self._before(record.epoch))
            elif isinstance(record, DeviceBatch):
                wanted.add(self._before(self._changes.partition(received.partition).begun))
        return wanted

    def _before(self, epoch: int) -> int | None:
        """The epoch before this one, or none where the newest counts."""
        return max(epoch, 0) - 1 if self._settings.lockstep else None

    def run(self, releases: Releases, standings: Standings) -> None:
        """Work off the batch; stops where records were passed over."""
        self._standings = standings
        for received, record in self._read:
            if received.topic == DEVICE_EVENTS.name and not self._follows(received):
                break
            try:
                if isinstance(record, RecordError):
                    raise record
                if isinstance(record, DeviceBatch):
                    self._apply(received, record, releases)
                elif isinstance(record, SlowPriors):
                    self._answer(received, record, releases)
                else:
                    self._mark(received.partition, record)
            except RecordError as error:
                self._refuse(received, str(error))
        self._expire(releases)
        self._changes.settle(releases)

    def _follows(self, received: Message) -> bool:
        """Whether a device's record is the next of its partition, or a repeat; else the process must end.

        Once: where the same offset comes again, the log itself lacks what is between, and the worker goes on.
        """
        partition = self._changes.partition(received.partition)
        if received.offset > partition.next:
            where = f"{received.topic}/{received.partition}: got offset {received.offset}, expected {partition.next}"
            if partition.gap != partition.next:
                partition.gap, self.fatal = partition.next, where
                return False
            log.error("%s: the log itself lacks what is between", where)
        partition.next = max(partition.next, received.offset + 1)
        return True

    def _apply(self, received: Message, batch: DeviceBatch, releases: Releases) -> None:
        changes, user = self._changes, self._changes.user(batch.user)
        made = self._stepped(received.partition, user, batch, releases)
        if made.user is not user:
            changes.put_user(batch.user, made.user)
        for record in made.uplink:
            changes.send(DEVICE_UPLINK, received.partition, received.key, record)
            changes.meet(batch.user)
        for pending in made.pending:
            changes.put_pending(received.partition, pending_key(pending.user, pending.seq), pending)
        self._counts["repeated"] += made.repeated
        if made.applied:
            self._counts["applied"] += made.applied
            if batch.sent_wall:
                self._sent_wall.append(batch.sent_wall)

    def _stepped(self, part: int, user: User, batch: DeviceBatch, releases: Releases) -> Step:
        context = self._context(part, releases, again=not self._changes.met(batch.user))
        try:
            return step(user, batch, context)
        except SequenceGap as hole:
            raise RecordError(str(hole)) from hole
        except Exception as error:
            log.exception("user %r, seq %d", batch.user, batch.seq)
            raise RecordError(f"could not be applied: {error!r}") from error

    def _context(self, part: int, releases: Releases, *, again: bool) -> Context:
        """What a partition's records are applied under, until its next mark."""
        if (known := self._contexts.get((part, again))) is not None:
            return known
        partition = self._changes.partition(part)
        release = releases(partition.release)
        context = self._contexts[part, again] = Context(
            settings=self._settings,
            spec=self._spec,
            epoch=max(partition.begun, 0),
            versions=release.manifest.versions,
            catalogue=release.catalogue,
            standing=self._standings(self._before(partition.begun)),
            asked_wall=self._wall,
            again=again,
        )
        return context

    def _answer(self, received: Message, priors: SlowPriors, releases: Releases) -> None:
        key = pending_key(priors.user, priors.seq)
        pending = self._changes.asked(received.partition, key)
        if pending is None:  # answered before, or its event is not applied yet and will ask again
            self._counts["unasked"] += 1
            return
        if not answers(priors, pending):  # asked again since, under another release: that answer is still to come
            self._counts["outdated"] += 1
            return
        check(priors, pending, self._settings)
        release = releases(pending.versions.release)
        outcome, example = answered(
            pending, priors, release.scorer, release.catalogue, self._settings.seed, len(received.value), self._wall
        )
        self._changes.send(OUTCOMES, received.partition, received.key, outcome)
        if example is not None:
            self._changes.send(FAST_EXAMPLES, received.partition, received.key, example)
        self._changes.put_pending(received.partition, key, None)
        self._counts["answered"] += 1
        self._counts["bytes down"] += len(received.value)
        self._forward(received.partition)

    def _expire(self, releases: Releases) -> None:
        """Score requests that are older than the settings allow by the fast part alone; never in lockstep."""
        for part, key, pending in self._late:
            if self._changes.asked(part, key) is None:
                continue  # answered in this batch
            release = releases(pending.versions.release)
            outcome = expired(pending, release.scorer, release.catalogue, self._wall)
            self._changes.send(OUTCOMES, part, user_key(pending.user), outcome)
            self._changes.put_pending(part, key, None)
            self._counts["expired"] += 1
            self._forward(part)

    def _mark(self, part: int, mark: Mark) -> None:
        partition = self._changes.partition(part)
        self._contexts.clear()
        self._marks.append(mark)
        if isinstance(mark, EpochBegin):
            if mark.epoch > partition.begun:
                partition.begun, partition.release, partition.over = mark.epoch, mark.release, False
        elif isinstance(mark, EpochEnd):
            if mark.epoch > partition.ended:
                self._upload(part, mark)
                partition.ended = mark.epoch
                self._pass(part, mark)
        elif not partition.over:
            partition.over = True
            self._pass(part, mark)

    def _pass(self, part: int, mark: EpochEnd | EndOfLog) -> None:
        """Send a mark up at once, and on as soon as nothing before it waits for an answer."""
        self._changes.send(DEVICE_UPLINK, part, b"", mark)
        self._changes.partition(part).waiting.append(encode(mark))
        self._forward(part)

    def _forward(self, part: int) -> None:
        partition = self._changes.partition(part)
        if partition.waiting and not self._changes.waiting(part):
            for data in partition.waiting:
                for topic in (OUTCOMES, FAST_EXAMPLES):
                    self._changes.send(topic, part, b"", data)
            partition.waiting = []

    def _upload(self, part: int, mark: EpochEnd) -> None:
        """Send the clicks of the epoch's users, in the order of their names."""
        for name in self._changes.uploaders(part):
            user = self._changes.user(name)
            if user.state.uploads and user.state.uploads_epoch <= mark.epoch:
                items = Tensor("<i8", (len(user.state.uploads),), keys_bytes(user.state.uploads))
                self._changes.send(DEVICE_UPLINK, part, user_key(name), ClickUpload(name, mark.epoch, items, mark.time))
                self._changes.put_user(name, user.uploaded())

    def _refuse(self, received: Message, reason: str) -> None:
        self._changes.send(DEAD_LETTERS, 0, received.topic.encode(), received.refused(reason, ROLE))
        self._refused[received.topic] += 1
        log.warning("%s/%d@%d refused: %s", received.topic, received.partition, received.offset, reason)

    def count(self, now_ms: int) -> None:
        """Tell the metrics what was done; `now_ms` is when it was durable."""
        for sent in self._sent_wall:
            telemetry.FRESHNESS.observe(max(now_ms - sent, 0) / 1000)
        telemetry.EVENTS_APPLIED.inc(self._counts["applied"])
        telemetry.EVENTS_DUPLICATE.inc(self._counts["repeated"])
        telemetry.PENDING.set(sum(map(len, self._changes.index.pending.values())))
        for kind in ("answered", "expired", "unasked", "outdated"):
            telemetry.OUTCOMES.labels(kind).inc(self._counts[kind])
        sent_kinds = self._changes.sent()
        telemetry.RANK_REQUESTS.labels(ROLE).inc(sent_kinds["RankRequest"])
        telemetry.R2_UPLOADS.inc(sent_kinds["Memory"])
        telemetry.CLICK_UPLOADS.inc(sent_kinds["ClickUpload"])
        telemetry.DEVICE_BYTES.labels("up").inc(self._changes.bytes_up)
        telemetry.DEVICE_BYTES.labels("down").inc(self._counts["bytes down"])
        for topic, letters in self._refused.items():
            telemetry.DEAD_LETTERS.labels(ROLE, topic).inc(letters)
        for mark in self._marks:
            telemetry.EPOCH.labels(ROLE).set(mark.epoch)
            telemetry.EVENT_TIME.labels(ROLE).set(mark.time / 1000)
