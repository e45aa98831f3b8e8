"""Releases of untrained nets, and publishing releases without a coordinator."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.data.catalogue import Catalogue
from models.mc2sf.checkpoint import pack
from models.mc2sf.nets import Nets
from models.mc2sf.tiled_scorer import Scorer
from streams.coordinator.publisher import Publisher, read_publication
from streams.database.engine import connect
from streams.kafka import clients, topic_admin
from streams.model_config import net_config
from streams.records import Versions
from streams.release_records import Manifest
from streams.releases.registry import Draft, finish_release, write_release
from streams.releases.release import ItemTable, Release
from streams.settings import Settings


def release(settings: Settings, version: int, items: int, *, encoder: int | None = None) -> Release:
    """Return a release with items 1..`items` and weights of their own per encoder version."""
    encoder = version if encoder is None else encoder
    catalogue = Catalogue(np.arange(1, items + 1))
    nets = Nets.initial(net_config(settings), catalogue.size, 100 + encoder)
    versions = Versions(version, encoder, encoder, version)
    manifest = Manifest(version, 0, "initial", versions, -1, 0, catalogue.size, "", {}, {}, {})
    return Release(manifest, nets, Scorer(nets), catalogue)


def publish(settings: Settings, releases: Iterable[Release]) -> None:
    """Create the topics, write the releases and publish them, each with the parts that are new in it."""
    topic_admin.create(settings)
    engine = connect(settings.database.get_secret_value())
    publisher = Publisher(settings, clients.producer(settings, "coordinator"))
    parent = None
    for release in releases:
        manifest = release.manifest
        parts = {p: d for p, d in pack(release.nets).items() if getattr(manifest.versions, p) == manifest.version}
        items = None
        if "encoder" in parts:
            items = ItemTable.of(release.catalogue, release.nets.encoder.E.detach().numpy())
        with engine.begin() as connection:
            draft = Draft(manifest.kind, parent, -1, parts, items, 0, {}, {})
            parent = write_release(connection, settings.run, draft)
            assert parent.versions == manifest.versions
            publisher.publish(read_publication(connection, settings.run, parent.version))
            finish_release(connection, settings.run, parent.version)
    engine.dispose()
