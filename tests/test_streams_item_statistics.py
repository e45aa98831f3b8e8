from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from models.data.item_statistics import BUCKETS, ItemStatistics, ItemStatisticsByEpoch
from streams.codec import RecordError, Tensor
from streams.database import schema
from streams.database.engine import connect, insert_new
from streams.release_records import ItemCounts
from streams.releases.item_statistics import ItemStatisticsCache, buckets_array, counts_key, counts_of, statistics_after
from streams.verification.item_statistics import ReferenceItemStatistics

EPOCHS, ITEMS = 6, 8
logs = st.lists(st.tuples(st.integers(0, EPOCHS - 1), st.integers(0, ITEMS - 1), st.booleans()), max_size=80)
Events = list[tuple[int, int, bool]]


def counted(events: Events, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    keys = np.unique(np.array([item for e, item, _ in events if e == epoch], np.int64))
    clicks = [sum(clicked for e, item, clicked in events if (e, item) == (epoch, key)) for key in keys.tolist()]
    return keys, np.array(clicks, np.int64)


def record(events: Events, epoch: int) -> ItemCounts:
    keys, clicks = counted(events, epoch)
    return ItemCounts(epoch, 0, 1, Tensor.of(keys, "<i8"), Tensor.of(clicks, "<i8"))


def recorded(events: Events) -> sa.Engine:
    engine = connect("sqlite://")
    rows = [
        {"run": "r", "user": "u", "seq": seq, "item": item, "kind": int(clicked), "time": 0, "group_time": 0}
        | {"impression": 0, "epoch": epoch}
        for seq, (epoch, item, clicked) in enumerate(events)
    ]
    with engine.begin() as connection:
        if rows:
            insert_new(connection, schema.interactions, rows)
    return engine


@given(logs)
def test_adding_epoch_by_epoch_and_counting_a_log_agree(events: Events) -> None:
    log = np.array(events, np.int64).reshape(-1, 3)
    by_epoch = ItemStatisticsByEpoch.from_events(log[:, 1], log[:, 0], log[:, 2], ITEMS + 1)
    statistics, items = ItemStatistics.empty(), np.arange(ITEMS + 1)
    for epoch in range(int(log[:, 0].max(initial=0)) + 1):
        served = statistics.buckets_of(items)
        np.testing.assert_array_equal(served, by_epoch.buckets_of(items, np.full(len(items), epoch)))
        assert not served[ITEMS].any()  # never seen
        statistics = statistics.next_epoch(*counted(events, epoch))


@given(logs, st.integers(0, EPOCHS))
def test_the_statistics_after_some_epochs_are_equivalent_to_their_events(events: Events, first: int) -> None:
    log, size = np.array(events, np.int64).reshape(-1, 3), ITEMS + 1
    before = ItemStatistics.empty()
    for epoch in range(first):
        before = before.next_epoch(*counted(events, epoch))
    later = log[log[:, 0] >= first]
    keys, epochs, clicks = (np.concatenate(pair) for pair in zip(before.as_events(), later.T[[1, 0, 2]], strict=True))
    whole, rest = (
        ItemStatisticsByEpoch.from_events(log[:, 1], log[:, 0], log[:, 2], size),
        ItemStatisticsByEpoch.from_events(keys, epochs, clicks, size),
    )
    for epoch in range(first, int(log[:, 0].max(initial=0)) + 1):
        at = np.arange(size), np.full(size, epoch)
        np.testing.assert_array_equal(rest.buckets_of(*at), whole.buckets_of(*at))


def test_the_tables_and_the_verification_count_the_same() -> None:
    rng = np.random.default_rng(1)
    events = [
        (int(e), int(i), bool(c)) for e, i, c in zip(*rng.integers(0, [[EPOCHS], [ITEMS], [2]], (3, 300)), strict=True)
    ]
    items = np.arange(ITEMS + 1)
    with recorded(events).connect() as connection:
        reference, statistics = ReferenceItemStatistics(connection, "r"), ItemStatistics.empty()
        for epoch in range(EPOCHS):
            np.testing.assert_array_equal(reference.buckets(epoch, items.tolist()), statistics.buckets_of(items))
            (counts,) = counts_of(connection, "r", epoch)
            assert counts == record(events, epoch)
            statistics = statistics.next_epoch(*counted(events, epoch))
            again = statistics_after(connection, "r", epoch)
            for name in ("epoch", "keys", "clicks", "recent", "first"):
                np.testing.assert_array_equal(getattr(again, name), getattr(statistics, name))
        assert reference.buckets(EPOCHS, items.tolist()).any()


def test_buckets_are_relative_so_that_they_mean_the_same_at_any_length_of_the_log() -> None:
    keys, clicks = np.arange(4), np.array([1, 1, 2, 12])
    short, long = (
        ItemStatistics.empty().next_epoch(keys, clicks),
        ItemStatistics.empty().next_epoch(keys, 1000 * clicks),
    )
    np.testing.assert_array_equal(short.buckets_of(keys), long.buckets_of(keys))
    assert (np.diff(short.buckets_of(keys)[:, 0].astype(int)) >= 0).all()
    assert short.buckets_of(keys)[3, 0] > short.buckets_of(keys)[2, 0]


def test_a_reader_derives_statistics_from_counts_in_any_order_and_none_from_an_incomplete_epoch() -> None:
    events = [(epoch, item, item % 2 == 0) for epoch in range(3) for item in range(epoch + 3)]
    cache, items = ItemStatisticsCache(), np.arange(6)
    for epoch in (2, 0):
        cache.take(record(events, epoch))
    assert cache.find(2) is None
    assert cache.newest().epoch == 0
    keys, clicks = counted(events, 1)
    for chunk in (1, 1, 0):  # the second comes twice
        assert cache.find(1) is None
        part = slice(2 * chunk, 2 * chunk + 2)
        cache.take(ItemCounts(1, chunk, 2, Tensor.of(keys[part], "<i8"), Tensor.of(clicks[part], "<i8")))
    with recorded(events).connect() as connection:
        found = cache.find(2)
        assert found is not None
        np.testing.assert_array_equal(found.buckets_of(items), statistics_after(connection, "r", 2).buckets_of(items))
    assert cache.newest().epoch == 2


def test_statistics_that_were_dropped_are_read_from_the_tables_and_later_ones_derived_from_them() -> None:
    events = [(epoch, 1, True) for epoch in range(30)]
    cache = ItemStatisticsCache()
    for epoch in range(20):
        cache.take(record(events, epoch))
    assert cache.newest().epoch == 19
    assert cache.find(3) is None
    with recorded(events).connect() as connection:
        cache.put(statistics_after(connection, "r", 3))
    assert [cache.find(epoch).epoch for epoch in (3, 4)] == [3, 4]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "counts",
    [
        ItemCounts(-1, 0, 1, Tensor.of(np.arange(2), "<i8"), Tensor.of(np.arange(2), "<i8")),
        ItemCounts(0, 1, 1, Tensor.of(np.arange(2), "<i8"), Tensor.of(np.arange(2), "<i8")),
        ItemCounts(0, 0, 1, Tensor.of(np.arange(2), "<i8"), Tensor.of(np.arange(3), "<i8")),
        ItemCounts(0, 0, 1, Tensor.of(np.arange(2)[::-1], "<i8"), Tensor.of(np.arange(2), "<i8")),
        ItemCounts(0, 0, 1, Tensor.of(np.arange(2), "<i8"), Tensor.of(-np.arange(2), "<i8")),
        ItemCounts(0, 0, 1, Tensor.of(np.arange(2), "<f4"), Tensor.of(np.arange(2), "<i8")),
    ],
)
def test_impossible_counts_are_refused(counts: ItemCounts) -> None:
    with pytest.raises(RecordError):
        ItemStatisticsCache().take(counts)


def test_buckets_are_sent_as_bytes_and_wrong_ones_are_refused() -> None:
    stands = np.array([[0, 3, BUCKETS - 1], [1, 2, 3]], np.uint8)
    np.testing.assert_array_equal(buckets_array(stands.tobytes(), 2), stands)
    assert not buckets_array(b"", 2).any()  # of a device that sends none yet
    for data, n in ((stands.tobytes(), 3), (bytes([BUCKETS] * 3), 1)):
        with pytest.raises(RecordError, match="item statistics"):
            buckets_array(data, n)


def test_counts_on_the_topic_are_bounded() -> None:
    def key(epoch: int) -> bytes:
        return counts_key(record([], epoch))

    assert len({key(epoch) for epoch in range(1000)}) == 256
    assert key(0) == key(256) != key(1)
