from __future__ import annotations

import random

import pytest
import torch

from streams.codec import RecordError
from streams.coordinator.publisher import CHUNK
from streams.releases.cache import ReleaseCache, read_part_key
from streams.settings import Settings
from tests.support.releases import RunHarness, Sent, changed, feed, learnt, prefixes, retrained, some_nets


@pytest.fixture
def harness(settings: Settings) -> RunHarness:
    """Three releases: the initial one, a retrain's, a retrain's that changes two rows."""
    harness = RunHarness.of(settings, dim=8, retrain_every=1)
    nets, catalogue = some_nets(harness.settings, 4, seed=3)
    coordinator = harness.coordinator()
    for epoch, candidate in enumerate([nets, changed(nets, [3, 5])]):
        harness.act(coordinator)
        harness.record(epoch)
        harness.propose("learner", epoch, None)
        harness.propose("retrain", epoch, retrained(candidate, catalogue))
        harness.act(coordinator)
    return harness


def take(cache: ReleaseCache, version: int) -> bool:
    release = cache.assemble(version)
    if release is not None:
        cache.put(release)
    return release is not None


def test_at_every_moment_of_a_publication_one_complete_release_is_served(harness: RunHarness) -> None:
    served = []
    for sent in prefixes(harness.producer.sent):
        reader = ReleaseCache(dim=8)
        feed(reader, sent)
        staged = [version for version in range(3) if take(reader, version)]
        served.append(max(staged, default=-1))
        for version in staged:
            assert reader.releases[version].manifest.version == version
    assert served[0] == -1
    assert served[-1] == 2
    assert served == sorted(served)
    begins = {key: served.index(int(key)) for key in (b"0", b"1", b"2")}
    for key, place in begins.items():
        assert harness.producer.sent[place - 1][:2] == ("model-releases", key), "served from its manifest on"


def test_a_reader_that_follows_serves_the_same_as_one_that_starts_late(harness: RunHarness) -> None:
    follower = ReleaseCache(dim=8)
    for record in harness.producer.sent:
        feed(follower, [record])
        for version in range(3):
            if version not in follower.releases:
                take(follower, version)
    late = ReleaseCache(dim=8)
    feed(late, harness.producer.sent)
    assert take(late, 2)
    one, other = late.newest(), follower.newest()
    assert one is not None
    assert other is not None
    assert one.manifest == other.manifest
    assert torch.equal(one.nets.encoder.E, other.nets.encoder.E)


def test_rows_of_a_later_version_do_not_disturb_an_earlier_one(harness: RunHarness) -> None:
    reader = ReleaseCache(dim=8)
    rows = [record for record in harness.producer.sent if record[0] == "item-embeddings"]
    others = [record for record in harness.producer.sent if record[0] != "item-embeddings"]
    feed(reader, rows + others)
    assert take(reader, 1)
    assert take(reader, 2)
    first, second = (reader.releases[version].nets.encoder.E for version in (1, 2))
    assert torch.equal(first[[2, 4]], second[[2, 4]])
    assert not torch.equal(first[[3, 5]], second[[3, 5]])


def damaged(sent: list[Sent], topic: str, key: bytes) -> list[Sent]:
    """The same records, the last byte of one value flipped."""
    place = max(i for i, record in enumerate(sent) if record[:2] == (topic, key))
    value = sent[place][2]
    assert value is not None
    wrong = value[:-3] + bytes([value[-3] ^ 1]) + value[-2:]
    return [*sent[:place], (topic, key, wrong), *sent[place + 1 :]]


@pytest.mark.parametrize(
    ("topic", "key"), [("model-weights", b"slow/2"), ("model-weights", b"encoder/2"), ("item-embeddings", b"103")]
)
def test_a_part_with_a_wrong_checksum_is_never_served(harness: RunHarness, topic: str, key: bytes) -> None:
    reader = ReleaseCache(dim=8)
    feed(reader, damaged(harness.producer.sent, topic, key))
    assert take(reader, 1)
    assert not take(reader, 2)
    feed(reader, [record for record in harness.producer.sent if record[:2] == (topic, key)])
    assert take(reader, 2), "sent again it is whole"


def test_a_part_larger_than_a_record_is_sent_in_chunks(settings: Settings) -> None:
    harness = RunHarness.of(settings, dim=200)
    harness.act()
    keys = {key for topic, key, _ in harness.producer.sent if topic == "model-weights"}
    assert {b"fast/0", b"fast/0/1"} <= keys
    assert all(len(value or b"") <= CHUNK for _, _, value in harness.producer.sent)
    for seed in range(5):
        reader = ReleaseCache(dim=200)
        feed(reader, random.Random(seed).sample(harness.producer.sent, len(harness.producer.sent)))
        assert take(reader, 0)


@pytest.mark.parametrize("key", [None, b"", b"slow", b"slow/x", b"slow/1/2/3", b"head/1", b"slow/-1", b"\xff/1"])
def test_a_key_that_names_no_part_is_refused(key: bytes | None) -> None:
    with pytest.raises(RecordError):
        read_part_key(key)


def test_a_release_cache_stays_bounded_over_many_releases(settings: Settings) -> None:
    harness = RunHarness.of(settings, dim=8, retrain_every=1000)
    coordinator = harness.coordinator()
    harness.act(coordinator)
    for epoch in range(80):
        harness.record(epoch)
        harness.propose("learner", epoch, learnt(some_nets(harness.settings, 0, seed=epoch)[0]))
        harness.act(coordinator)
    reader = ReleaseCache(dim=8, keep=4)
    for record in harness.producer.sent:
        feed(reader, [record])
        if record[1] == b"active":
            assert take(reader, max(reader.manifests))
    assert sorted(reader.releases) == [77, 78, 79, 80]
    assert len(reader.manifests) <= 64
    assert len(reader._parts) <= 10
