"""A release whose forms were not fitted together: their own nets travel with it, and score them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from models.data.catalogue import Catalogue
from models.mc2sf.checkpoint import CheckpointError, pack, pack_standalone, unpack_standalone
from models.mc2sf.nets import STANDALONE, Nets
from models.mc2sf.tiled_scorer import Scorer
from streams.codec import RecordError
from streams.model_config import net_config
from streams.release_records import Manifest
from streams.releases import registry
from streams.releases.cache import ReleaseCache
from streams.releases.registry import Draft
from streams.releases.release import ItemTable, Release, read_manifest, read_release
from streams.releases.retention import KEPT, KEPT_EPOCHS, PartRetention
from streams.settings import Settings
from tests.support.releases import RunHarness, feed, learnt, retrained, some_nets

ITEMS = 70


@pytest.fixture
def harness(settings: Settings) -> RunHarness:
    return RunHarness.of(settings, dim=8, retrain_every=2, stacked=False)


def drafted(settings: Settings) -> tuple[Draft, dict[str, Nets]]:
    """A release 0, and its nets: "" are those shared."""
    nets = {form: some_nets(settings, ITEMS, seed)[0] for seed, form in enumerate(["", *STANDALONE], 1)}
    parts = pack(nets[""]) | {form: pack_standalone(nets[form], form) for form in STANDALONE}
    items = ItemTable.of(some_nets(settings, ITEMS, 1)[1], nets[""].encoder.E.detach().numpy())
    return Draft("initial", None, -1, parts, items, 5, {}, {"reason": "fitted apart"}), nets


def begun(harness: RunHarness) -> dict[str, Nets]:
    """Have release 0 written before any coordinator is there, and published by one."""
    draft, nets = drafted(harness.settings)
    with harness.engine.begin() as connection:
        registry.write_release(connection, harness.settings.run, draft)
    harness.act()
    return nets


def scored(scorer: Scorer) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(1)
    history, clicks, shown = (chance.integers(2, ITEMS + 2, n) for n in (9, 4, 6))
    candidates, r2 = np.arange(2, ITEMS + 2), chance.standard_normal(8).astype(np.float32)
    slow = scorer.slow(history, r2, candidates)
    fast = scorer.fast(clicks, shown, candidates, slow.r_t, slow.r_n)
    r2 = scorer.encode_exposures(np.zeros((1, 8), np.float32), [np.array([3, 4, 5])])
    priors = {"r_t": slow.r_t, "r_n": slow.r_n, "r2": r2}
    return priors | {"din": slow.din, "f2s": slow.f2s, "alone": fast.fast, "s2f": fast.mc2sf}


def as_given(scores: dict[str, np.ndarray], nets: dict[str, Nets]) -> None:
    """Return the expected scores: those of its own nets, informed by the priors of the shared ones."""
    shared = scored(Scorer(nets[""]))
    assert all(np.array_equal(scores[name], shared[name]) for name in ("r_t", "r_n", "r2", "f2s"))
    for form in STANDALONE:
        only = scored(Scorer(nets[""], {form: nets[form]}))
        assert np.array_equal(scores[form], only[form])
        assert not np.array_equal(scores[form], shared[form])
    assert np.array_equal(scores["din"], scored(Scorer(nets["din"]))["din"])
    assert np.array_equal(scores["alone"], scored(Scorer(nets["alone"]))["alone"])


def test_each_form_is_scored_by_its_own_nets_from_the_tables_and_from_the_bus(harness: RunHarness) -> None:
    nets = begun(harness)
    with harness.engine.connect() as connection:
        as_given(scored(read_release(connection, harness.settings.run, 0).scorer), nets)
    sent = list(harness.producer.sent)
    random.Random(1).shuffle(sent)
    reader = ReleaseCache(dim=8)
    feed(reader, sent)
    release = reader.assemble(0)
    assert isinstance(release, Release)
    as_given(scored(release.scorer), nets)
    assert release.manifest.trained_until == 5


def test_a_release_is_not_whole_before_its_nets_apart_are_there(harness: RunHarness) -> None:
    begun(harness)
    for form in STANDALONE:
        reader = ReleaseCache(dim=8)
        feed(reader, [record for record in harness.producer.sent if not record[1].startswith(form.encode())])
        assert reader.assemble(0) is None


def test_a_manifest_that_names_other_parts_is_refused(harness: RunHarness) -> None:
    begun(harness)
    with harness.engine.connect() as connection:
        good = read_manifest(connection, harness.settings.run, 0)
    for parts in (good.parts | {"other": ""}, {name: good.parts[name] for name in STANDALONE}):
        values = {name: getattr(good, name) for name in good.__struct_fields__} | {"parts": parts}
        with pytest.raises(RecordError, match="names parts"):
            ReleaseCache(dim=8).add_manifest(Manifest(**values))


@pytest.mark.parametrize("kind", ["retrain", "learner"])
def test_a_successor_does_not_take_them_over(harness: RunHarness, kind: str) -> None:
    begun(harness)
    catalogue = Catalogue(np.arange(100, 100 + ITEMS))
    after = some_nets(harness.settings, ITEMS, 9)[0]
    for epoch in range(2):
        harness.record(epoch)
        harness.propose("learner", epoch, learnt(after) if kind == "learner" else None)
        if epoch == 1:
            harness.propose("retrain", 1, retrained(after, catalogue) if kind == "retrain" else None)
        harness.act()
    with harness.engine.connect() as connection:
        successor = read_release(connection, harness.settings.run, 1)
    assert successor.manifest.kind == kind
    assert successor.standalone == {}
    assert np.array_equal(scored(successor.scorer)["s2f"], scored(Scorer(successor.nets))["s2f"])


def test_they_stay_on_the_bus_as_long_as_their_release_is_in_force(harness: RunHarness) -> None:
    begun(harness)
    retention = PartRetention(harness.settings.run)
    with harness.engine.connect() as connection:
        assert retention.expired(connection, 0) == []
        assert retention.expired(connection, KEPT + KEPT_EPOCHS + 1) == []


def test_a_frozen_run_waits_for_nobody_who_learns(harness: RunHarness) -> None:
    frozen = harness.changed(frozen=True)
    begun(frozen)
    for epoch in range(3):
        frozen.record(epoch)
        frozen.act()
    assert [(d.epoch, d.release, d.outcome) for d in frozen.decisions()] == [(e, 0, "unchanged") for e in range(3)]


def test_bytes_of_another_form_of_other_rows_or_damaged_are_refused(settings: Settings) -> None:
    config = net_config(settings.model_copy(update={"dim": 8}))
    nets = Nets.initial(config, 9, 1)
    data = pack_standalone(nets, "din")
    again = unpack_standalone(config, "din", data, 9)
    assert all(torch.equal(w, again.state_dict()[name]) for name, w in nets.state_dict().items())
    for form, some, rows in (("s2f", data, 9), ("din", data, 8), ("din", data[:-4], 9), ("din", b"", 9)):
        with pytest.raises(CheckpointError):
            unpack_standalone(config, form, some, rows)
