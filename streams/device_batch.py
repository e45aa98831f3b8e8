"""A batch of the device worker, from what was received to what is to be sent and written: everything but Kafka.

`DeviceWork` reads a mapping with the table's rows and changes neither it nor anything else: `outputs` are to be sent
and acknowledged, then `rows()` written in this order, then the index told by `commit`. The order of writes matters
where a crash cuts them short: a request without an answer stands before the user's row that says that it was asked,
and a partition's row stands last.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from streams import telemetry
from streams.device_answer import answered, check, expired
from streams.device_folds import compute, value
from streams.device_index import DeviceIndex
from streams.device_state import (
    DeviceState,
    PartitionState,
    Pending,
    keys_bytes,
    pack,
    partition_key,
    pending_key,
    unpack,
    user_key,
)
from streams.device_step import Context, Hole, Memory, User, step
from streams.received import Received, check_batch
from streams.records import (
    ClickUpload,
    DeviceBatch,
    DeviceEvent,
    EndOfLog,
    EpochBegin,
    EpochEnd,
    Mark,
    NegativeMemory,
    Reader,
    Record,
    RecordError,
    SlowPriors,
    Tensor,
    encode,
)
from streams.release import Release
from streams.settings import Settings
from streams.sizes import view_spec
from streams.topics import CLOUD_DOWNLINK, DEAD_LETTERS, DEVICE_EVENTS, DEVICE_UPLINK, FAST_EXAMPLES, OUTCOMES, Topic

log = logging.getLogger(__name__)

ROLE = "device"

_events: Reader[DeviceEvent] = Reader(DeviceEvent)
_priors: Reader[SlowPriors] = Reader(SlowPriors)


class DeviceWork:
    """One batch. Made from what was received; `needs` says which releases `run` must be given."""

    def __init__(
        self,
        settings: Settings,
        received: Iterable[Received],
        rows: Mapping[bytes, bytes],
        index: DeviceIndex,
        wall: int,
    ) -> None:
        self._settings, self._table, self._index, self._wall = settings, rows, index, wall
        self._spec = view_spec(settings)
        self.outputs: list[tuple[Topic, int, bytes, Record | Memory | bytes]] = []
        self.sent: list[int] = []  # wall clock of sending of each record applied
        self.counts: Counter[str] = Counter()
        self.fatal = ""  # a hole: the process must end without acknowledging this batch
        self.refused: Counter[str] = Counter()
        self.marks: list[Mark] = []
        self._users: dict[str, User] = {}
        self._partitions: dict[int, PartitionState] = {}
        self._pending: defaultdict[int, dict[bytes, Pending | None]] = defaultdict(dict)
        self._met: set[str] = set()
        self._releases: Callable[[int | None], Release]
        self._late = [] if settings.lockstep else list(self._overdue())
        self._read = [r for r in map(self._decoded, received) if r is not None]

    def _decoded(self, received: Received) -> tuple[Received, DeviceEvent | SlowPriors] | None:
        try:
            record: DeviceEvent | SlowPriors
            if received.topic == CLOUD_DOWNLINK.name:
                record = _priors.decode(received.data)
                received.check_user(record.user, self._settings.partitions)
            else:
                record = _events.decode(received.data)
                if isinstance(record, DeviceBatch):
                    received.check_user(record.user, self._settings.partitions)
                    check_batch(record)
        except RecordError as error:
            self._refuse(received, str(error))
            return None
        return received, record

    def _overdue(self) -> Iterable[tuple[int, bytes, Pending]]:
        limit = self._wall - int(self._settings.request_timeout_s * 1000)
        for part, asked in self._index.pending.items():
            for key, when in asked.items():
                if when < limit and (pending := self._asked(part, key)) is not None:
                    yield part, key, pending

    def needs(self) -> set[int | None]:
        """The releases that this batch is worked off with; None stands for the newest."""
        wanted: set[int | None] = {pending.versions.release for _, _, pending in self._late}
        for received, record in self._read:
            if isinstance(record, SlowPriors):
                if (pending := self._asked(received.part, pending_key(record.user, record.seq))) is not None:
                    wanted.add(pending.versions.release)
            elif isinstance(record, EpochBegin):
                wanted.add(record.release)
            elif isinstance(record, DeviceBatch):
                wanted.add(self._partition(received.part).release)
        return wanted

    def run(self, releases: Callable[[int | None], Release]) -> None:
        """Work off the batch; stops at a hole."""
        self._releases = releases
        for received, record in self._read:
            try:
                if isinstance(record, DeviceBatch):
                    self._apply(received, record)
                elif isinstance(record, SlowPriors):
                    self._answer(received, record)
                else:
                    self._mark(received.part, record)
            except RecordError as error:
                self._refuse(received, str(error))
            except Hole as hole:
                self.fatal = str(hole)
                break
        self._expire()
        memories = [user.memory for user in self._users.values()] + [user.r2 for user in self._users.values()]
        memories += [out[3].r2 for out in self.outputs if isinstance(out[3], Memory)]
        compute(memories, lambda version: ((release := releases(version)).scorer, release.catalogue))

    def _expire(self) -> None:
        """Score requests that are older than the settings allow by the fast part alone; never in lockstep."""
        for part, key, pending in self._late:
            if self._asked(part, key) is None:
                continue  # answered in this batch
            release = self._releases(pending.versions.release)
            outcome = expired(pending, release.scorer, release.catalogue, self._wall)
            self.outputs.append((OUTCOMES, part, user_key(pending.user), outcome))
            self._pending[part][key] = None
            self.counts["expired"] += 1
            self._forward(part)

    def _apply(self, received: Received, batch: DeviceBatch) -> None:
        user = self._user(batch.user)
        partition = self._partition(received.part)
        release = self._releases(partition.release)
        met = batch.user in self._index.met or batch.user in self._met
        context = Context(
            settings=self._settings,
            spec=self._spec,
            epoch=max(partition.begun, 0),
            versions=release.manifest.versions,
            catalogue=release.catalogue,
            asked_wall=self._wall,
            again=not met,
        )
        if user.state.blocked and batch.seq > user.state.seq:
            raise RecordError(f"seq {batch.seq} behind a missing or refused record: {user.state.seq} is expected")
        try:
            made = step(user, batch, context)
        except Hole:
            self._users[batch.user] = user.blocked()
            raise
        except Exception as error:
            log.exception("user %r, seq %d", batch.user, batch.seq)
            raise RecordError(f"could not be applied: {error!r}") from error
        if made.user is not user:
            self._users[batch.user] = made.user
        key = user_key(batch.user)
        for record in made.uplink:
            self.outputs.append((DEVICE_UPLINK, received.part, key, record))
            self._met.add(batch.user)
            self.counts["memories" if isinstance(record, Memory) else "requests"] += 1
        for pending in made.pending:
            self._pending[received.part][pending_key(pending.user, pending.seq)] = pending
        if made.applied:
            self.counts["applied"] += made.applied
            self.sent.append(batch.sent_wall)
        self.counts["repeated"] += made.repeated

    def _answer(self, received: Received, priors: SlowPriors) -> None:
        key = pending_key(priors.user, priors.seq)
        pending = self._asked(received.part, key)
        if pending is None:  # answered before, or its event is not applied yet and will ask again
            self.counts["unasked"] += 1
            return
        check(priors, pending, self._settings.dim)
        release = self._releases(pending.versions.release)
        outcome, example = answered(
            pending, priors, release.scorer, release.catalogue, self._settings.seed, len(received.data), self._wall
        )
        self.outputs.append((OUTCOMES, received.part, received.name, outcome))
        if example is not None:
            self.outputs.append((FAST_EXAMPLES, received.part, received.name, example))
        self._pending[received.part][key] = None
        self.counts["answered"] += 1
        self.counts["bytes down"] += len(received.data)
        self._forward(received.part)

    def _mark(self, part: int, mark: Mark) -> None:
        partition = self._partition(part)
        self.marks.append(mark)
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
        self.outputs.append((DEVICE_UPLINK, part, b"", mark))
        self._partition(part).waiting.append(encode(mark))
        self._forward(part)

    def _forward(self, part: int) -> None:
        partition = self._partition(part)
        if partition.waiting and not self._index.waiting(part, self._pending[part]):
            for data in partition.waiting:
                self.outputs += [(topic, part, b"", data) for topic in (OUTCOMES, FAST_EXAMPLES)]
            partition.waiting = []

    def _upload(self, part: int, mark: EpochEnd) -> None:
        """Send the clicks of the epoch's users, in the order of their names."""
        for name in self._index.users(part, self._users):
            user = self._user(name)
            if user.state.uploads and user.state.uploads_epoch <= mark.epoch:
                upload = ClickUpload(
                    name,
                    mark.epoch,
                    Tensor("<i8", (len(user.state.uploads),), keys_bytes(user.state.uploads)),
                    mark.time,
                )
                self.outputs.append((DEVICE_UPLINK, part, user_key(name), upload))
                self._users[name] = user.uploaded()
                self.counts["uploads"] += 1

    def _refuse(self, received: Received, reason: str) -> None:
        name = received.name.decode(errors="replace")
        if received.topic == DEVICE_EVENTS.name and (name in self._users or received.name in self._table):
            self._users[name] = self._user(name).blocked()
        self.outputs.append((DEAD_LETTERS, 0, received.topic.encode(), received.refused(reason, ROLE)))
        self.refused[received.topic] += 1
        log.warning("%s/%d@%d refused: %s", received.topic, received.part, received.place, reason)

    # what the table has, under what this batch has changed ------------------------------------------------------------

    def _user(self, name: str) -> User:
        if name not in self._users:
            data = self._table.get(user_key(name))
            return User.of(DeviceState() if data is None else unpack(data, DeviceState))
        return self._users[name]

    def _partition(self, part: int) -> PartitionState:
        if part not in self._partitions:
            data = self._table.get(partition_key(part))
            self._partitions[part] = PartitionState() if data is None else unpack(data, PartitionState)
        return self._partitions[part]

    def _asked(self, part: int, key: bytes) -> Pending | None:
        if key in self._pending[part]:
            return self._pending[part][key]
        data = self._table.get(key)
        return None if data is None else unpack(data, Pending)

    # what is to be done with it ---------------------------------------------------------------------------------------

    def records(self) -> Iterable[tuple[str, int, bytes, bytes]]:
        """What is to be sent: topic, partition, key, value."""
        for topic, part, key, output in self.outputs:
            data = self._encoded(output)
            if topic is DEVICE_UPLINK:
                self.counts["bytes up"] += len(data)
            yield topic.full(self._settings), part, key, data

    def _encoded(self, output: Record | Memory | bytes) -> bytes:
        if isinstance(output, bytes):
            return output
        if isinstance(output, Record):
            return encode(output)
        r2 = Tensor("<f4", (self._settings.dim,), value(output.r2))
        return encode(NegativeMemory(output.user, output.window, r2, output.encoder, output.size, output.time))

    def rows(self) -> Iterable[tuple[bytes, bytes | None]]:
        """What is to be written, in this order; None deletes. The index is told on the way."""
        for changed in self._pending.values():
            for key, pending in changed.items():
                self._index.note(key, pending)
                yield key, None if pending is None else pack(pending)
        for name, user in self._users.items():
            state = user.settled()
            self._index.note(user_key(name), state)
            yield user_key(name), pack(state)
        for part, partition in self._partitions.items():
            if (data := pack(partition)) != self._table.get(partition_key(part)):
                yield partition_key(part), data
        self._index.met |= self._met

    def count(self, now_ms: int) -> None:
        """Tell the metrics what was done; `now_ms` is when it was durable."""
        for sent in self.sent:
            telemetry.FRESHNESS.observe(max(now_ms - sent, 0) / 1000)
        telemetry.EVENTS_APPLIED.inc(self.counts["applied"])
        telemetry.EVENTS_DUPLICATE.inc(self.counts["repeated"])
        telemetry.PENDING.set(sum(map(len, self._index.pending.values())))
        for kind in ("answered", "expired", "unasked"):
            telemetry.OUTCOMES.labels(kind).inc(self.counts[kind])
        telemetry.RANK_REQUESTS.labels(ROLE).inc(self.counts["requests"])
        telemetry.R2_UPLOADS.inc(self.counts["memories"])
        telemetry.CLICK_UPLOADS.inc(self.counts["uploads"])
        telemetry.DEVICE_BYTES.labels("up").inc(self.counts["bytes up"])
        telemetry.DEVICE_BYTES.labels("down").inc(self.counts["bytes down"])
        for topic, letters in self.refused.items():
            telemetry.DEAD_LETTERS.labels(ROLE, topic).inc(letters)
        for mark in self.marks:
            telemetry.EPOCH.labels(ROLE).set(mark.epoch)
            telemetry.EVENT_TIME.labels(ROLE).set(mark.time / 1000)
