"""Faults of devices: whom they hit, and what arrives: nothing lost but what is said to be, nothing doubled."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import SourceError
from replay.faults import DAY, DELAY, HOUR, LATENESS, MAX_OFFLINE_SPANS, NO_FAULTS, OFFLINE_SPAN, SKEW, Faults, chance
from replay.prepare.late_arrivals import Fleet
from replay.prepare.plan import Options, Plan
from replay.prepare.prepare import prepare
from replay.send.fault_injection import FaultInjection, encode_schema_1
from replay.send.replayer import digest
from replay.send.sorted_log import SortedLog
from replay.sources.source import parse
from streams.codec import SCHEMA, Reader, RecordError, encode
from streams.kafka.message import Message, check_batch
from streams.kafka.partitioner import partition_of
from streams.records import DeviceBatch, DeviceEvent, Kind
from streams.topics import DEVICE_EVENTS

SOURCE = "synthetic:users=60,items=60,clicks=20"
SHARES = [field.name for field in fields(Faults) if field.type == "float"]
ON_THE_WAY = Faults(offline=0.3, reordered=0.3, skew=0.5)
shares = st.fixed_dictionaries({name: st.sampled_from([0.0, 0.25, 0.5, 1.0]) for name in SHARES})

Event = tuple[str, int, str, int, int]  # user, seq, item, time, kind


def planned(folder: Path, faults: Faults = NO_FAULTS, **options: Any) -> Plan:
    return prepare(parse(SOURCE), Options(faults=faults, epoch="200", **options), folder)


def rows(plan: Plan) -> list[dict[str, Any]]:
    return pq.read_table(plan.path).to_pylist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return rows(planned(tmp_path_factory.mktemp("sound")))


def by_user(log: list[dict[str, Any]], *names: str) -> dict[str, list[tuple[Any, ...]]]:
    found = defaultdict(list)
    for row in log:
        found[row["user"]].append(tuple(row[name] for name in names))
    return found


@given(shares, st.integers(0, 1000))
def test_faults_are_read_as_they_are_written(given: dict[str, float], hostile: int) -> None:
    faults = Faults(**given, hostile=hostile)
    assert Faults.parse(str(faults)) == faults


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("offline", "offline='': float expected"),
        ("offline=", "offline='': float expected"),
        ("offline=2", r"offline=2: it is a share in 0\.\.1"),
        ("lost=-0.1", r"lost=-0.1: it is a share in 0\.\.1"),
        ("old=nan", r"old=nan: it is a share in 0\.\.1"),
        ("hostile=0.5", "hostile='0.5': int expected"),
        ("hostile=1001", r"hostile=1001: it is a number of devices in 0\.\.1000"),
        ("luck=1", "unknown parameter 'luck': there are offline, .*lost, dupl"),
        ("lost=0,lost=1", "parameter 'lost' is given twice"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        Faults.parse(text)


@pytest.mark.parametrize(
    "faults", [ON_THE_WAY, *(Faults(**{n: 0.3}) for n in ("offline", "reordered", "skew"))], ids=str
)
def test_nothing_is_lost_or_doubled_on_the_way_and_a_user_s_order_stays(
    faults: Faults, sound: list[dict[str, Any]], tmp_path: Path
) -> None:
    log = rows(planned(tmp_path, faults))
    assert by_user(log, "seq", "item", "impression") == by_user(sound, "seq", "item", "impression")
    assert log != sound
    times = [row["arrival"] for row in log]
    assert times == sorted(times)
    for events in by_user(log, "time", "arrival").values():
        own = [time for time, _ in events]
        assert own == sorted(own)
        assert all(time <= arrival for time, arrival in events)


def test_what_is_lost_is_whole_uploads_and_leaves_no_hole(sound: list[dict[str, Any]], tmp_path: Path) -> None:
    plan = planned(tmp_path, Faults(lost=0.3))
    log = by_user(rows(plan), "seq", "item", "time")
    gone = plan.fault_counts["lost"]
    assert 0.2 * len(sound) < gone < 0.4 * len(sound)
    assert plan.events == len(sound) - gone
    fleet = Fleet(Faults(lost=0.3), seed=1)
    for user, events in by_user(sound, "seq", "item", "time").items():
        left = [event for seq, *event in events if not fleet.lost(user, seq)]
        assert log[user] == [(seq, *event) for seq, event in enumerate(left)]


def test_late_is_bounded_by_what_a_fault_may_do(sound: list[dict[str, Any]], tmp_path: Path) -> None:
    when = {(row["user"], row["seq"]): row["time"] for row in sound}
    for faults, longest in (
        (Faults(reordered=1.0), DELAY),
        (Faults(offline=0.5), MAX_OFFLINE_SPANS * OFFLINE_SPAN + DELAY),
    ):
        late = [row["arrival"] - when[row["user"], row["seq"]] for row in rows(planned(tmp_path / str(faults), faults))]
        assert 0 <= min(late) < HOUR <= longest
        assert longest / 20 < max(late) <= longest + DAY


def test_a_wrong_clock_is_wrong_by_a_constant_and_never_ahead_of_the_arrival(
    sound: list[dict[str, Any]], tmp_path: Path
) -> None:
    plan = planned(tmp_path, Faults(skew=0.5))
    right = by_user(sound, "time")
    behind = ahead = 0
    for user, events in by_user(rows(plan), "time").items():
        wrong = {time - true for (time,), (true,) in zip(events, right[user], strict=True)}
        assert len(wrong) == 1
        assert -SKEW <= min(wrong) <= 0, "a fast clock is set back to the time of arrival"
        behind += min(wrong) < 0
        ahead += min(wrong) == 0
    assert behind > 5
    assert ahead > 20
    assert plan.fault_counts["skew"] > 0


def test_a_click_that_comes_too_late_is_known_but_never_ranked(sound: list[dict[str, Any]], tmp_path: Path) -> None:
    plan = planned(tmp_path, Faults(offline=0.5))
    kinds = {(row["user"], row["seq"]): row["kind"] for row in sound}
    demoted = 0
    for row in rows(plan):
        before = kinds[row["user"], row["seq"]]
        late = row["arrival"] - row["time"] > LATENESS
        assert row["kind"] == (Kind.PAST_CLICK if late and before == Kind.CLICK else before)
        demoted += row["kind"] != before
    assert demoted == plan.fault_counts["late_clicks"] > 0


def test_the_same_faults_and_seed_give_the_same_log_and_others_another(tmp_path: Path) -> None:
    faults = Faults(lost=0.1, offline=0.1)
    first, again = planned(tmp_path / "a", faults), planned(tmp_path / "b", faults)
    assert rows(first) == rows(again)
    assert (first.fault_counts, digest(first)) == (again.fault_counts, digest(again))
    assert planned(tmp_path / "a", faults) == first, "also when it is there already"
    assert rows(planned(tmp_path / "b", Faults(lost=0.1))) != rows(first)
    other = planned(tmp_path / "c", faults, seed=2)
    assert rows(other) != rows(first)
    assert len({digest(planned(tmp_path / "d", f)) for f in (NO_FAULTS, faults, Faults(old=0.5))}) == 3


def test_epochs_and_the_pace_go_by_the_time_of_arrival(tmp_path: Path) -> None:
    plan = prepare(parse(SOURCE), Options(faults=ON_THE_WAY, epoch="1d"), tmp_path)
    days = [row["arrival"] // DAY for row in rows(plan)]
    assert plan.epochs == len(set(days))
    log = SortedLog(plan.path, plan.contents.rows, 1, plan.shift)
    due = [group.due for rows in log.slices(0, plan.contents.rows) for group in rows.groups]
    assert due == sorted(due)


@given(st.integers(0, 10**6), st.integers(0, 20 * DAY), st.integers(0, 20 * DAY))
def test_an_upload_never_overtakes_an_earlier_one_of_its_user(seed: int, first: int, second: int) -> None:
    fleet = Fleet(ON_THE_WAY, seed)
    one, two = (fleet.arrival("u", seq, time, 1) for seq, time in enumerate(sorted((first, second))))
    assert max(first, second) <= two
    assert one <= two


@given(st.integers(0, 10**6), st.text(max_size=5), st.integers(0, 2**40))
def test_whom_a_fault_hits_is_a_hash(seed: int, user: str, number: int) -> None:
    assert 0 <= chance("lost", seed, user, number) < 1
    assert chance("lost", seed, user, number) == chance("lost", seed, user, number)
    assert chance("lost", seed, user, number) != chance("late", seed, user, number)


BATCH = DeviceBatch("u", 3, ["1", "2"], bytes([1, 0]), [5, 6], [0, 0], 99)


def test_the_encode_schema_1_is_read_and_does_not_say_when_it_was_sent() -> None:
    data = encode_schema_1(BATCH)
    assert data[0] < SCHEMA
    assert Reader[Any](DeviceEvent).decode(data) == DeviceBatch("u", 3, ["1", "2"], bytes([1, 0]), [5, 6], [0, 0])


def test_a_share_of_devices_is_old_and_a_share_of_batches_comes_again() -> None:
    sent = FaultInjection(Faults(duplicates=0.2, old=0.3), 1)
    assert 250 < sum(sent.old(f"u{n}") for n in range(1000)) < 350
    again = [sent.repeated(DeviceBatch("u", n, [], b"", [], [])) for n in range(1000)]
    assert 150 < sum(again) < 250
    assert not any(FaultInjection(NO_FAULTS, 1).repeated(DeviceBatch("u", n, [], b"", [], [])) for n in range(1000))


def test_what_is_sent_is_every_batch_once_and_some_again_and_both_are_counted() -> None:
    batches = [msgspec.structs.replace(BATCH, user=f"u{n % 20}", seq=2 * n) for n in range(200)]
    sent = FaultInjection(Faults(duplicates=0.2, old=0.3), 1, {"duplicates": 1000})
    records = list(sent.records(batches))
    assert [(user, events) for user, _, events in records[:200]] == [(batch.user, 2) for batch in batches]
    assert len(records) > 220
    assert {record[:2] for record in records[200:]} < {record[:2] for record in records[:200]}
    assert {events for *_, events in records[200:]} == {0}
    assert sent.counts["duplicates"] == 1000 + 2 * (len(records) - 200)
    assert sent.counts["old"] == 2 * sum(data[0] == 1 for _, data, _ in records) > 0
    assert list(FaultInjection(NO_FAULTS, 1).records(batches)) == [(b.user, encode(b), 2) for b in batches]


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 60))
def test_everything_that_hostile_devices_send_is_refused(seed: int, devices: int, epochs: int) -> None:
    sent = FaultInjection(Faults(hostile=devices), seed)
    reader: Reader[Any] = Reader(DeviceEvent)
    records = [record for epoch in range(epochs) for record in sent.hostile(epoch, "victim")]
    assert len(records) == sent.hostile_records(epochs) >= devices * (epochs + 1)
    assert records == [record for epoch in range(epochs) for record in sent.hostile(epoch, "victim")]
    for name, data in {record for record in records if len(record[1]) < 1000}:
        key = name.encode()
        received = Message(DEVICE_EVENTS.name, partition_of(key, 4), 0, key, data)
        try:
            batch = reader.decode(received.value)
            received.check_user(batch.user, 4)
            check_batch(batch)
        except RecordError:
            continue
        assert batch.seq > 2**32, "a gap: refused by the state"
        assert batch.user in sent.hostile_users
