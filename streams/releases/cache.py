"""The shelf: what a reader has heard of releases, and the few that it has put together.

Pure: records go in, whole releases come out; a set that is torn or damaged never does. The thread that feeds it is in
`releases.py`.
"""

from __future__ import annotations

from collections import OrderedDict

from models.mc2sf.checkpoint import CheckpointError
from models.mc2sf.nets import PARTS, STANDALONE
from streams.codec import RecordError
from streams.records import EmbeddingRow, Manifest
from streams.releases import embedding_table
from streams.releases.embedding_table import ItemRows
from streams.releases.item_statistics import ItemStatisticsCache
from streams.releases.release import Assembler, ItemTable, Release, ReleaseError, checksum, part_version

_MANIFESTS = 64  # remembered: more than any reader is behind in its partitions
_HEADER = 1 << 20  # bytes of a part's header at the most: it names a few dozen tensors


def part_key(part: str, version: int, chunk: int = 0) -> bytes:
    """Return the key on model-weights. A part larger than a record travels in chunks: part/version, part/version/1.."""
    return f"{part}/{version}/{chunk}".encode() if chunk else f"{part}/{version}".encode()


def read_part_key(key: bytes | None) -> tuple[str, int, int]:
    """Return part, version and chunk. Raises RecordError where `key` names none."""
    fields = (key or b"").decode(errors="replace").split("/")
    if not 2 <= len(fields) <= 3 or fields[0] not in PARTS + STANDALONE or not all(f.isdecimal() for f in fields[1:]):
        raise RecordError(f"key {key!r} names no part and version")
    return fields[0], int(fields[1]), int(fields[2]) if len(fields) == 3 else 0


def _begins_safetensors(data: bytes) -> bool:
    """Whether the length of a JSON header comes first, and then the header: garbage hides no good part that way."""
    return 2 <= int.from_bytes(data[:8], "little") <= _HEADER and data[8:9] == b"{"


class ReleaseCache:
    """Takes records in any order between topics; keeps the last `keep` releases that were asked for or came new."""

    def __init__(self, dim: int, keep: int = 6) -> None:
        self._keep = keep
        self._rows = ItemRows(dim)
        self._items: ItemTable | None = None
        self._parts: dict[tuple[str, int], dict[int, bytes]] = {}
        self._assembler = Assembler()
        self.standings = ItemStatisticsCache()
        self.manifests: dict[int, Manifest] = {}
        self.staged: OrderedDict[int, Release] = OrderedDict()

    def take_row(self, row: EmbeddingRow) -> None:
        """Take in a row of E. Raises RecordError where it can't be one."""
        self._rows.put(row)

    def take_part(self, key: bytes | None, data: bytes | None) -> None:
        """Take in a part or a chunk of one, or its tombstone. Raises RecordError where it can't be one."""
        part, version, chunk = read_part_key(key)
        if data is None:
            self._parts.pop((part, version), None)
        elif chunk == 0 and not _begins_safetensors(data):
            raise RecordError(f"{part} {version} does not begin as safetensors do")
        else:
            self._parts.setdefault((part, version), {})[chunk] = data

    def take_manifest(self, manifest: Manifest) -> None:
        """Take in a manifest. Raises RecordError where it does not name all parts."""
        if not set(PARTS) <= set(manifest.parts) <= set(PARTS + STANDALONE):
            raise RecordError(f"the manifest of release {manifest.version} names parts {sorted(manifest.parts)}")
        self.manifests[manifest.version] = manifest
        for version in sorted(self.manifests)[:-_MANIFESTS]:
            del self.manifests[version]

    def assemble(self, version: int) -> Release | None:
        """Put release `version` together where everything is there and every checksum matches; else None."""
        manifest = self.manifests.get(version)
        parts = self._whole_parts(manifest) if manifest else None
        items = self._whole_items(manifest) if manifest and parts else None
        if manifest is None or parts is None or items is None:
            return None
        try:
            return self._assembler.build(manifest, parts, items)
        except (CheckpointError, ReleaseError):
            return None  # damaged before its checksum was made: the gate should have refused it

    def put(self, release: Release) -> None:
        """Stage a whole release, and forget what is not needed any more."""
        self.staged[release.manifest.version] = release
        newest = max(self.staged)
        for version in list(self.staged):
            if len(self.staged) > self._keep and version != newest:
                del self.staged[version]
        kept = [m for v, m in self.manifests.items() if v in self.staged or v > newest]
        needed = {(part, part_version(manifest, part)) for manifest in kept for part in manifest.parts}
        for key in [key for key in self._parts if key not in needed and key[1] < newest]:
            del self._parts[key]
        self._rows.settle(min(release.manifest.versions.encoder for release in self.staged.values()))

    def put_items(self, encoder: int, items: ItemTable) -> None:
        """Take in a whole item table that was read from the tables, over the rows that came by the bus."""
        self._rows.replace(encoder, items.keys, items.E)

    def find(self, version: int) -> Release | None:
        """Return a staged release; having been asked for, it is forgotten later than others."""
        if version in self.staged:
            self.staged.move_to_end(version)
        return self.staged.get(version)

    def newest(self) -> Release | None:
        """Return the staged release of the highest version."""
        return self.staged[max(self.staged)] if self.staged else None

    def _whole_parts(self, manifest: Manifest) -> dict[str, bytes] | None:
        whole = {}
        for part in manifest.parts:
            chunks = self._parts.get((part, part_version(manifest, part)), {})
            data = b"".join(chunks[i] for i in sorted(chunks))
            if not chunks or checksum(data) != manifest.parts[part]:
                return None
            whole[part] = data
        return whole

    def _whole_items(self, manifest: Manifest) -> ItemTable | None:
        encoder = manifest.versions.encoder
        if self._items is None or self._items.digest != manifest.embeddings:
            found = self._rows.assemble(encoder, manifest.items)
            if found is None:
                return None
            self._items = ItemTable(*found, embedding_table.digest(*found))
        return self._items if self._items.digest == manifest.embeddings else None
