"""A release in memory: assembled from its parts, or read from the tables alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import sqlalchemy as sa
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import Connection

from models.data.catalogue import FIRST_ROW, Catalogue
from models.mc2sf.checkpoint import config_of, unpack, unpack_part, unpack_standalone
from models.mc2sf.nets import STANDALONE, Nets
from models.mc2sf.tiled_scorer import Scorer
from streams.codec import Reader
from streams.database.schema import item_embeddings, release_parts, releases
from streams.release_records import Manifest
from streams.releases import embedding_table
from streams.releases.retention import without_weights

_HEAVY = ("encoder", "slow")

_manifests: Reader[Manifest] = Reader(Manifest)


class ReleaseError(ValueError):
    """The parts do not match the manifest, or there is no such release."""


@dataclass(frozen=True)
class Release:
    """A complete release, ready to serve. Its nets are never changed."""

    manifest: Manifest
    nets: Nets
    scorer: Scorer
    catalogue: Catalogue
    standalone: Mapping[str, Nets] = field(default_factory=dict)  # standalone nets by name

    @cached_property
    def _near(self) -> Catalogue:
        """The items that have neighbours: those of the catalogue, and some that were clicked since."""
        nets = self.standalone.get("s2f", self.nets)
        return self.catalogue.extended(nets.fast.neighbours.keys.numpy()) if nets.config.stacked else self.catalogue

    def near(self, clicks: ArrayLike, candidates: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of clicks and candidates, given by key, among the item neighbours."""
        return self._near.rows(clicks), self._near.rows(candidates)

    def vectors(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of items by key, f4 [n, d]; those that the release does not know share one."""
        found: NDArray[np.float32] = self.nets.encoder.E.detach().numpy()[self.catalogue.rows(keys)]
        return found


@dataclass(frozen=True)
class ItemTable:
    """E of one encoder version: keys i8 [rows] (reserved rows under negative keys), E f4 [rows, d], their digest."""

    keys: NDArray[np.int64]
    E: NDArray[np.float32]
    digest: str

    @classmethod
    def of(cls, catalogue: Catalogue, E: NDArray[np.float32]) -> ItemTable:
        """Return the item table of `catalogue` with E [catalogue.size, d]."""
        keys = np.concatenate([embedding_table.reserved_keys(), catalogue.keys])
        return cls(keys, E, embedding_table.digest(keys, E))


def checksum(data: bytes) -> str:
    """Return the SHA-256 of a part, in hex."""
    return hashlib.sha256(data).hexdigest()


def part_version(manifest: Manifest, part: str) -> int:
    """Return the version of a part; standalone nets have the encoder's."""
    return int(getattr(manifest.versions, "encoder" if part in STANDALONE else part))


class Assembler:
    """Assembles releases. Most change the fast nets only and share the rest with the release assembled before."""

    def __init__(self) -> None:
        self._last: Release | None = None

    def build(self, manifest: Manifest, parts: Mapping[str, bytes], items: ItemTable) -> Release:
        """Return the release of `manifest`. Raises ReleaseError or CheckpointError if anything differs from it."""
        for part in manifest.parts:
            if checksum(parts[part]) != manifest.parts[part]:
                raise ReleaseError(f"part {part} of release {manifest.version} has another checksum than its manifest")
        if items.digest != manifest.embeddings or len(items.E) != manifest.items:
            raise ReleaseError(f"the item table of release {manifest.version} has another checksum than its manifest")
        config = config_of(parts["fast"])[1]
        last = self._last
        same_items = last is not None and last.manifest.embeddings == manifest.embeddings
        if last is not None and same_items and all(last.manifest.parts[p] == manifest.parts[p] for p in _HEAVY):
            nets, catalogue = Nets(config, len(items.E)), last.catalogue
            nets.encoder, nets.slow = last.nets.encoder, last.nets.slow
            unpack_part(nets, "fast", parts["fast"])
        else:
            nets = unpack(config, parts, items.E)
            catalogue = last.catalogue if last is not None and same_items else Catalogue(items.keys[FIRST_ROW:])
        rows = len(items.E)
        standalone = {
            name: unpack_standalone(config, name, parts[name], rows) for name in STANDALONE if name in manifest.parts
        }
        self._last = Release(manifest, nets.eval(), Scorer(nets, standalone), catalogue, standalone)
        return self._last


def read_manifest(connection: Connection, run: str, version: int) -> Manifest:
    """Return the manifest of a release from the tables. Raises ReleaseError if there is none."""
    wanted = (releases.c.run == run) & (releases.c.version == version)
    data = connection.execute(sa.select(releases.c.manifest).where(wanted)).scalar_one_or_none()
    if data is None:
        raise ReleaseError(f"there is no release {version} in run {run}")
    return _manifests.decode(data)


def read_parts(connection: Connection, run: str, manifest: Manifest) -> dict[str, bytes]:
    """Return the bytes of the parts that `manifest` names. Raises ReleaseError if one is missing."""
    parts: dict[str, bytes] = {}
    for part in manifest.parts:
        version = part_version(manifest, part)
        row = (release_parts.c.run == run) & (release_parts.c.part == part) & (release_parts.c.version == version)
        data = connection.execute(sa.select(release_parts.c.data).where(row)).scalar_one_or_none()
        if data is None:
            if manifest.version in without_weights(connection, run):
                raise ReleaseError(f"the weights of release {manifest.version} were deleted by `mc2sf runs trim`")
            raise ReleaseError(f"part {part}/{version} of release {manifest.version} is not in the tables")
        parts[part] = bytes(data)
    return parts


def read_items(connection: Connection, run: str, encoder: int, rows: int) -> ItemTable:
    """Return the newest vector of each of the first `rows` rows at encoder version <= `encoder`."""
    t = item_embeddings.c
    known = (t.run == run) & (t.encoder <= encoder) & (t.row < rows)
    newest = sa.select(t.item, sa.func.max(t.encoder).label("encoder")).where(known).group_by(t.item).subquery()
    both = (t.item == newest.c.item) & (t.encoder == newest.c.encoder)
    query = sa.select(t.item, t.vector).join(newest, both).where(t.run == run).order_by(t.row)
    found = connection.execute(query).all()
    if len(found) != rows:
        raise ReleaseError(f"{len(found)} of {rows} rows of E at encoder {encoder} are in the tables")
    keys = np.fromiter((row.item for row in found), dtype=np.int64, count=rows)
    E = np.frombuffer(b"".join(row.vector for row in found), dtype="<f4").reshape(rows, -1)
    return ItemTable(keys, E, embedding_table.digest(keys, E))


def read_release_and_items(
    connection: Connection, run: str, version: int, assembler: Assembler
) -> tuple[Release, ItemTable]:
    """Return release `version` and its item table from the tables alone. Raises ReleaseError if it is incomplete."""
    manifest = read_manifest(connection, run, version)
    parts = read_parts(connection, run, manifest)
    items = read_items(connection, run, manifest.versions.encoder, manifest.items)
    return assembler.build(manifest, parts, items), items


def read_release(connection: Connection, run: str, version: int, assembler: Assembler | None = None) -> Release:
    """Return release `version` from the tables alone. Raises ReleaseError if it is incomplete.

    A caller that reads many releases passes an assembler, which keeps what successive releases share.
    """
    return read_release_and_items(connection, run, version, assembler or Assembler())[0]
