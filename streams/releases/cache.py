"""The release cache: the parts of releases that a reader has received, and the few releases that it has assembled.

Pure: records go in, complete releases come out; an incomplete or damaged one never does. The thread that feeds it is in
`reader.py`.
"""

from __future__ import annotations

from collections import OrderedDict

from models.mc2sf.checkpoint import CheckpointError
from models.mc2sf.nets import PARTS, STANDALONE
from streams.codec import RecordError
from streams.release_records import EmbeddingRow, Manifest
from streams.releases import embedding_table
from streams.releases.embedding_table import ItemRows
from streams.releases.item_statistics import ItemStatisticsCache
from streams.releases.release import Assembler, ItemTable, Release, ReleaseError, checksum, part_version

KEPT_MANIFESTS = 64  # more than any reader is behind
_HEADER = 1 << 20  # maximum bytes of a part's header: it names a few dozen tensors


def part_key(part: str, version: int, chunk: int = 0) -> bytes:
    """Return the key on model-weights. A part larger than a record is sent in chunks: part/version, part/version/1.."""
    return f"{part}/{version}/{chunk}".encode() if chunk else f"{part}/{version}".encode()


def manifest_key(version: int) -> bytes:
    """Return the key on model-releases. Keys repeat after KEPT_MANIFESTS releases, so that the topic does not grow."""
    return b"%d" % (version % KEPT_MANIFESTS)


def read_part_key(key: bytes | None) -> tuple[str, int, int]:
    """Return part, version and chunk. Raises RecordError if `key` is not a part's."""
    fields = (key or b"").decode(errors="replace").split("/")
    if not 2 <= len(fields) <= 3 or fields[0] not in PARTS + STANDALONE or not all(f.isdecimal() for f in fields[1:]):
        raise RecordError(f"key {key!r} names no part and version")
    return fields[0], int(fields[1]), int(fields[2]) if len(fields) == 3 else 0


def _begins_safetensors(data: bytes) -> bool:
    """Return True if the data begin with a JSON header and its length: garbage must not replace a good part."""
    return 2 <= int.from_bytes(data[:8], "little") <= _HEADER and data[8:9] == b"{"


class ReleaseCache:
    """Collects the records of three topics in any order; keeps the `keep` newest or last used releases."""

    def __init__(self, dim: int, keep: int = 6) -> None:
        self._keep = keep
        self._rows = ItemRows(dim)
        self._items: ItemTable | None = None
        self._parts: dict[tuple[str, int], dict[int, bytes]] = {}
        self._assembler = Assembler()
        self.item_statistics = ItemStatisticsCache()
        self.manifests: dict[int, Manifest] = {}
        self.releases: OrderedDict[int, Release] = OrderedDict()

    def add_row(self, row: EmbeddingRow) -> None:
        """Add a row of E. Raises RecordError if it is invalid."""
        self._rows.put(row)

    def add_part(self, key: bytes | None, data: bytes | None) -> None:
        """Add a part or a chunk of one, or its tombstone. Raises RecordError if it is invalid."""
        part, version, chunk = read_part_key(key)
        if data is None:
            self._parts.pop((part, version), None)
        elif chunk == 0 and not _begins_safetensors(data):
            raise RecordError(f"{part} {version} does not begin like a safetensors file")
        else:
            self._parts.setdefault((part, version), {})[chunk] = data

    def add_manifest(self, manifest: Manifest) -> None:
        """Add a manifest. Raises RecordError if it does not name all parts."""
        if not set(PARTS) <= set(manifest.parts) <= set(PARTS + STANDALONE):
            raise RecordError(f"the manifest of release {manifest.version} names parts {sorted(manifest.parts)}")
        self.manifests[manifest.version] = manifest
        for version in sorted(self.manifests)[:-KEPT_MANIFESTS]:
            del self.manifests[version]

    def assemble(self, version: int) -> Release | None:
        """Return release `version` if all of it has arrived and every checksum matches, else None."""
        manifest = self.manifests.get(version)
        parts = self._complete_parts(manifest) if manifest else None
        items = self._complete_items(manifest) if manifest and parts else None
        if manifest is None or parts is None or items is None:
            return None
        try:
            return self._assembler.build(manifest, parts, items)
        except (CheckpointError, ReleaseError):
            return None  # damaged before its checksum was computed: the gate should have refused it

    def put(self, release: Release) -> None:
        """Keep a complete release, and drop what is no longer needed."""
        self.releases[release.manifest.version] = release
        newest = max(self.releases)
        for version in list(self.releases):
            if len(self.releases) > self._keep and version != newest:
                del self.releases[version]
        kept = [m for v, m in self.manifests.items() if v in self.releases or v > newest]
        needed = {(part, part_version(manifest, part)) for manifest in kept for part in manifest.parts}
        for key in [key for key in self._parts if key not in needed and key[1] < newest]:
            del self._parts[key]
        self._rows.merge_up_to(min(release.manifest.versions.encoder for release in self.releases.values()))

    def put_items(self, encoder: int, items: ItemTable) -> None:
        """Add an item table that was read from the database, over the rows that came by Kafka."""
        self._rows.replace(encoder, items.keys, items.E)

    def find(self, version: int) -> Release | None:
        """Return release `version` if it is kept, and mark it as used."""
        if version in self.releases:
            self.releases.move_to_end(version)
        return self.releases.get(version)

    def newest(self) -> Release | None:
        """Return the kept release of the highest version."""
        return self.releases[max(self.releases)] if self.releases else None

    def _complete_parts(self, manifest: Manifest) -> dict[str, bytes] | None:
        complete = {}
        for part in manifest.parts:
            chunks = self._parts.get((part, part_version(manifest, part)), {})
            data = b"".join(chunks[i] for i in sorted(chunks))
            if not chunks or checksum(data) != manifest.parts[part]:
                return None
            complete[part] = data
        return complete

    def _complete_items(self, manifest: Manifest) -> ItemTable | None:
        encoder = manifest.versions.encoder
        if self._items is None or self._items.digest != manifest.embeddings:
            found = self._rows.assemble(encoder, manifest.items)
            if found is None:
                return None
            self._items = ItemTable(*found, embedding_table.digest(*found))
        return self._items if self._items.digest == manifest.embeddings else None
