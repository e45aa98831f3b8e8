"""The recorder loses and repeats no record under any order, crashes, repeats and invalid records."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa

from deploy.report.measurements import events_applied, events_forgotten
from models.evaluation.candidates import evaluated
from models.evaluation.metrics import metrics, rank
from streams.codec import Reader, encode
from streams.database import run_state, schema
from streams.kafka.message import Message
from streams.kafka.partition_consumer import PartitionConsumer
from streams.kafka.partitioner import partition_of
from streams.kafka.types import TopicPartition
from streams.process.health import STUCK_AFTER_S, Health
from streams.recorder.epoch_writer import EpochWriter, OvertakenError
from streams.recorder.recorder import Recorder
from streams.records import DeadLetter, DeviceBatch, EndOfLog, EpochEnd, Forget, Kind, Outcome, item_key
from streams.settings import Settings
from streams.state.cloud import CloudState
from streams.state.device import DeviceState
from streams.state.row_codec import decode_row, encode_row
from streams.topics import CLOUD_STATE, DEAD_LETTERS, DEVICE_EVENTS, DEVICE_STATE, DEVICE_UPLINK, OUTCOMES
from tests.support.recorder import RECORDED, TopicLogs, deliver, dump, random_run


@pytest.fixture
def small(settings: Settings) -> Settings:
    return settings.model_copy(update={"partitions": 2, "dim": 4})


def starter(settings: Settings, engine: sa.Engine) -> Callable[[], EpochWriter]:
    clock = count(1)
    return lambda: EpochWriter(settings, engine, lambda: next(clock))


def test_a_run_is_recorded_completely(small: Settings, engine: sa.Engine) -> None:
    topic_logs = random_run(small)
    writer = deliver(topic_logs, starter(small, engine))
    rows = dump(engine, small.run)
    assert len(rows["interactions"]) == 5 * 3 * 14
    assert len(rows["negative_memories"]) == len(rows["click_uploads"]) == 5 * 3
    assert {key for key, _ in rows["items"]} == {row[3] for row in rows["interactions"]}
    assert all(key == item_key(name) for key, name in rows["items"])
    clicks = [row for row in rows["interactions"] if row[4] == Kind.CLICK]
    assert len(rows["outcomes"]) == len(clicks)
    with engine.connect() as connection:
        progress = connection.execute(sa.select(schema.progress)).one()
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.dead_letters)).scalar_one() == 0
    assert (progress.epoch, progress.over, progress.not_ranked) == (2, True, 0)
    assert writer.positions() == {source: len(records) for source, records in topic_logs.logs.items()}


def test_clicks_without_outcome_are_counted_across_crashes(small: Settings, engine: sa.Engine) -> None:
    small = small.model_copy(update={"evaluate": 0.5})
    topic_logs, dropped = random_run(small), 0
    for source, records in topic_logs.logs.items():
        if source.topic == OUTCOMES.name:
            kept = [(key, value) for key, value in records if not key or key == b"u1"]
            dropped += len(records) - len(kept)
            topic_logs.logs[source] = kept
    deliver(topic_logs, starter(small, engine), random.Random(1), 0.1)
    with engine.connect() as connection:
        query = sa.select(schema.interactions).where(schema.interactions.c.kind == Kind.CLICK)
        clicks = connection.execute(query.where(schema.interactions.c.user != "u1")).all()
        count = connection.execute(sa.select(schema.progress.c.not_ranked)).scalar_one()
    assert len(clicks) == dropped
    assert 0 < count == sum(evaluated(small.seed, row.user, row.seq, 0.5) for row in clicks) < dropped


def test_the_newest_state_of_each_user_is_kept(small: Settings, engine: sa.Engine) -> None:
    deliver(random_run(small), starter(small, engine))
    with engine.connect() as connection:
        rows = connection.execute(sa.select(schema.user_snapshots)).all()
    states = {(row.side, row.user): bytes(row.state) for row in rows}
    users = [f"u{i}" for i in range(5)]
    assert len(states) == len(rows) == 2 * 5
    assert {row.epoch for row in rows} == {2}
    assert {decode_row(states["device", user], DeviceState).seq for user in users} == {14 * 3}
    assert {decode_row(states["cloud", user], CloudState).epoch for user in users} == {2}


def test_a_damaged_row_of_a_changelog_is_a_dead_letter(small: Settings, engine: sa.Engine) -> None:
    topic_logs = random_run(small, epochs=1)
    elsewhere = next(u for u in map(str, count()) if partition_of(u.encode(), small.partitions) == 1)
    here = next(u for u in map(str, count()) if partition_of(u.encode(), small.partitions) == 0)
    bad = [
        (here.encode(), b"garbage", "checksum"),
        (elsewhere.encode(), encode_row(DeviceState(), 1), "does not belong"),
    ]
    for key, data, _ in bad:
        topic_logs.logs[DEVICE_STATE.name, 0].insert(0, (key, data))
    deliver(topic_logs, starter(small, engine))
    with engine.connect() as connection:
        dead_letters = connection.execute(sa.select(schema.dead_letters)).all()
    assert {row.topic for row in dead_letters} == {DEVICE_STATE.name}
    assert len(dead_letters) == len(bad)
    for _, data, reason in bad:
        assert [x for x in dead_letters if x.value == data and reason in x.reason], reason


@pytest.mark.parametrize("early_rows", [1, 1_000_000])
def test_a_forgotten_user_leaves_no_row_and_begins_anew_and_the_events_are_accounted_for(
    small: Settings, engine: sa.Engine, early_rows: int
) -> None:
    topic_logs, user, others = random_run(small), "u1", 4
    place = partition_of(user.encode(), small.partitions)
    logs: dict[Any, Any] = topic_logs.logs
    forget = user.encode(), encode(Forget(user, 0))
    logs[DEVICE_EVENTS.name, place].insert(-1, (user.encode(), b"garbage"))  # before the end of the log
    for topic in (DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES):
        logs[topic.name, place].insert(-1, forget)
    for topic in (DEVICE_STATE, CLOUD_STATE):
        logs[topic.name, place].insert(-1, (user.encode(), b""))
    later = DeviceBatch(user, 14 * 3, ["item 1", "item 2"], b"\x01\x00", [2_000_000] * 2, [0, 0])  # of a log
    again = DeviceBatch(user, 0, ["item 1"], b"\x01", [2_000_000], [0])
    for sent in (later, again):
        logs[DEVICE_EVENTS.name, place].insert(-1, (user.encode(), encode(sent)))
    deliver(topic_logs, lambda: EpochWriter(small, engine, lambda: 0, early_rows))
    with engine.connect() as connection:
        assert run_state.forgotten(connection, small.run) is not None
        for table in schema.public_tables().values():
            if "user" in table.c:
                found = set(connection.execute(sa.select(table.c.user).where(table.c.run == small.run)).scalars())
                assert (user in found) == (table is schema.interactions), table.name
                assert table in (schema.drifts, schema.idempotency_keys) or len(found - {user}) == others, table.name
        i = schema.interactions.c
        assert connection.execute(sa.select(i.seq).where(i.user == user)).scalars().all() == [0]
        refused = connection.execute(sa.select(schema.dead_letters.c.value)).scalars().all()
        assert refused == [encode(later)], "that before is gone"
        events = Counter({f"u{n}": 14 * 3 for n in range(5)}) + Counter({user: 2})
        forgotten, applied = run_state.forgotten_users(connection, small.run), events_applied(connection, small.run)
    assert forgotten == 1
    assert events_forgotten(events, applied, forgotten) == 14 * 3 + 2 == events.total() - applied.total()
    assert events_forgotten(events, applied - Counter(u0=1), forgotten) == 14 * 3 + 2, "what others lack was lost"
    assert events_forgotten(events, applied, 0) == 0


def test_crashes_repeats_and_early_writes_change_no_row(small: Settings, engine: sa.Engine) -> None:
    deliver(random_run(small), starter(small, engine))
    expected = dump(engine, small.run)
    for seed in range(2):
        draw = random.Random(seed)
        other = small.model_copy(update={"run": f"{small.run}-{seed}"})
        topic_logs = random_run(other)
        for records in topic_logs.logs.values():  # a device that crashed sends again what came before its crash
            for at in sorted(draw.sample(range(1, len(records)), 4) if len(records) > 4 else [], reverse=True):
                records[at:at] = records[max(at - draw.randint(1, 6), 0) : at]
        deliver(
            topic_logs.in_envelopes() if seed else topic_logs, starter(other, engine), draw, crashes=0.1, flushes=0.2
        )
        actual = dump(engine, other.run)
        for name in RECORDED:
            assert actual[name] == expected[name], (seed, name)


def test_popularity_ranks_by_the_clicks_of_earlier_impression_groups(small: Settings, engine: sa.Engine) -> None:
    deliver(random_run(small), starter(small, engine))
    i, o = schema.interactions.c, schema.outcomes.c
    with engine.connect() as connection:
        events = connection.execute(sa.select(schema.interactions).where(i.kind == Kind.CLICK)).all()
        outcomes = connection.execute(sa.select(schema.outcomes).where(o.run == small.run)).all()
    assert any(e.impression for e in events)
    for outcome in outcomes:
        [own] = [e for e in events if (e.user, e.seq) == (outcome.user, outcome.seq)]
        unit = [e.seq for e in events if e.user == own.user and own.impression and e.impression == own.impression]
        here = (own.epoch, own.group_time, own.user, min([*unit, own.seq]))
        before = [e.item for e in events if (e.epoch, e.group_time, e.user, e.seq) < here]
        counts = [before.count(key) for key in np.frombuffer(outcome.candidates, "<i8")]
        assert outcome.ranks["popularity"] == rank(counts, outcome.target_index).rank


def test_the_last_points_are_the_metrics_of_all_recorded_ranks(small: Settings, engine: sa.Engine) -> None:
    deliver(random_run(small), starter(small, engine))
    m, o = schema.metric_points.c, schema.outcomes.c
    with engine.connect() as connection:
        outcomes = connection.execute(sa.select(schema.outcomes).where(o.run == small.run)).all()
        last = (m.run == small.run) & (m.epoch == 2) & (m.form == "cumulative")
        points = connection.execute(sa.select(schema.metric_points).where(last)).all()
    assert {(p.variant, p.subset) for p in points} == {
        (v, s)
        for v in ("random", "fast", "mc2sf", "popularity", "river", "served")
        for s in ("all", "known", "collaborative", "cold")
    }
    for point in points:
        some = {
            "all": outcomes,
            "known": [o for o in outcomes if not o.cold],
            "collaborative": [o for o in outcomes if not o.cold and o.history and o.window],
            "cold": [o for o in outcomes if o.cold],
        }[point.subset]
        expected = metrics([o.ranks[point.variant] for o in some])
        assert point.n == len(some)
        assert [point.hr_1, point.hr_5, point.hr_10, point.ndcg_5, point.ndcg_10, point.mrr] == list(expected.values())


def test_an_invalid_record_becomes_a_dead_letter_with_the_reason(small: Settings, engine: sa.Engine) -> None:
    topic_logs = random_run(small, epochs=1)
    user = "u0"
    good = DeviceBatch(user, 14, ["1"], bytes([Kind.CLICK]), [2_000_000], [0])
    outcome = next(
        record
        for _, data in topic_logs.logs[OUTCOMES.name, 0]
        if isinstance(record := Reader[Outcome](Outcome | EpochEnd | EndOfLog).decode(data), Outcome)
    )
    bad = [
        (DEVICE_EVENTS, user, b"\xff garbage", "schema"),
        (DEVICE_EVENTS, user, b"", "empty value"),
        (DEVICE_EVENTS, user, encode(DeviceBatch(user, 14, ["1"], b"", [1], [0])), "unequal length"),
        (DEVICE_EVENTS, user, encode(DeviceBatch(user, 15, ["1"], b"\1", [1], [0])), "14 is expected"),
        (DEVICE_EVENTS, "u1", encode(good), "under the key"),
        (DEVICE_EVENTS, user, encode(DeviceBatch(user, 14, ["\0"], b"\1", [1], [0])), "NUL"),
        (OUTCOMES, outcome.user, encode(_changed(outcome, target_index=10_000)), "index 10000"),
        (OUTCOMES, outcome.user, encode(_changed(outcome, ranks={"x" * 33: 1})), "by 'xxx"),
        (OUTCOMES, outcome.user, encode(_changed(outcome, time=-1)), "time is -1"),
        (DEVICE_UPLINK, user, b"\1\x93\xa5never", "never"),
        (DEAD_LETTERS, user, b"not a dead letter", "schema"),
    ]
    for topic, name, data, _ in bad:
        topic_logs.logs[_source(topic_logs, topic.name, name)].insert(
            -2 if topic is not DEAD_LETTERS else 0, (name.encode(), data)
        )
    topic_logs.logs[_source(topic_logs, DEVICE_EVENTS.name, user)].insert(-2, (user.encode(), encode(good)))
    elsewhere = DeadLetter("fast-examples", 1, 7, b"k", b"v\0", "a reason with \0", "learner")
    topic_logs.put(DEAD_LETTERS, "fast-examples", elsewhere)
    deliver(topic_logs.in_envelopes(), starter(small, engine))
    with engine.connect() as connection:
        dead_letters = connection.execute(sa.select(schema.dead_letters)).all()
        assert connection.execute(sa.select(schema.progress.c.over)).scalar_one()
        newest = connection.execute(
            sa.select(schema.interactions.c.item).where(
                schema.interactions.c.user == user, schema.interactions.c.seq == 14
            )
        ).scalar_one()
    assert newest == item_key("1")
    assert len(dead_letters) == len(bad) + 1
    for topic, _, data, reason in bad:
        assert [x for x in dead_letters if x.topic == topic.name and x.value == data and reason in x.reason], reason
    [dead] = [x for x in dead_letters if x.role == "learner"]
    assert (dead.topic, dead.partition, dead.offset, dead.key, dead.value) == ("fast-examples", 1, 7, b"k", b"v\0")


def test_only_one_of_two_recorders_of_a_run_writes(small: Settings, engine: sa.Engine) -> None:
    topic_logs = random_run(small)
    start = starter(small, engine)
    sleeping = start()
    deliver(topic_logs, start)
    expected = dump(engine, small.run)
    with pytest.raises(OvertakenError):
        deliver(topic_logs, lambda: sleeping)
    assert dump(engine, small.run) == expected


def test_a_failed_transaction_is_repeated_from_the_tables(small: Settings, engine: sa.Engine) -> None:
    topic_logs = random_run(small)
    deliver(topic_logs, starter(small, engine))
    expected = dump(engine, small.run)
    other = small.model_copy(update={"run": f"{small.run}-b"})
    start, failing = starter(other, engine), [3, 5, 6]
    commits = count(1)

    def fail(_: sa.Connection) -> None:
        if next(commits) in failing:
            raise sa.exc.OperationalError("commit", {}, Exception("the database is unavailable"))

    sa.event.listen(engine, "commit", fail)
    failed = 0
    while True:
        try:
            deliver(random_run(other), start)
            break
        except sa.exc.OperationalError:
            failed += 1
    assert failed == len(failing)
    assert dump(engine, other.run) == expected


def test_long_epochs_are_written_early(small: Settings, engine: sa.Engine) -> None:
    topic_logs = random_run(small, epochs=1, events=40)
    writer = EpochWriter(small, engine, lambda: 0, early_rows=60)
    written = []
    for offset in range(len(topic_logs.logs[DEVICE_EVENTS.name, 0]) - 2):
        writer.add(topic_logs.messages(TopicPartition(DEVICE_EVENTS.name, 0), offset)[0])
        if writer.full:
            writer.flush()
            with engine.connect() as connection:
                written.append(
                    connection.execute(sa.select(sa.func.count()).select_from(schema.interactions)).scalar_one()
                )
    assert written
    assert written[0] >= 60
    deliver(topic_logs, starter(small, engine))
    assert len(dump(engine, small.run)["interactions"]) == 5 * 40


def test_a_recorder_that_hangs_in_the_database_is_stuck_also_if_it_had_read_everything(
    small: Settings, engine: sa.Engine
) -> None:
    now, said = [0.0], list[str]()
    health = Health(lambda: now[0])

    class Hanging(EpochWriter):
        full = True

        def add(self, message: Message) -> None:
            pass

        def flush(self) -> None:
            now[0] += 2 * STUCK_AFTER_S
            said.append(health.stuck())

    class Reading(PartitionConsumer):
        def __init__(self, *_: object) -> None:
            pass

        def read(self, *_: object) -> list[Message]:
            return [Message(DEVICE_EVENTS.name, 0, 0, b"user", b"")]

        def lag(self) -> dict[TopicPartition, int]:
            return {}

        def pause_only(self, paused: Iterable[TopicPartition]) -> None:
            pass

    recorder = Recorder(small, Hanging(small, engine, lambda: 1), Reading, health)
    recorder.poll_once()
    assert said == ["a call is pending and there was no progress for 40 s"]
    assert health.stuck() == "", "nothing waits now"


def _source(topic_logs: TopicLogs, topic: str, user: str) -> tuple[str, int]:
    return topic, partition_of(user.encode(), 1 if topic == DEAD_LETTERS.name else topic_logs.settings.partitions)


def _changed(outcome: Outcome, **changes: object) -> Outcome:
    return msgspec.structs.replace(outcome, **changes)
