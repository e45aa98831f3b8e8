"""The item table E in transit: one row per item, each with the encoder version that changed it last.

E of encoder version v is, per item, the newest row with a version <= v. `ItemRows` holds what a reader needs for a
few successive versions: one base array, and the changed rows of each later version. Reserved rows (padding, unknown)
are sent like items, under negative keys.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.data.catalogue import FIRST_ROW
from streams.codec import RecordError
from streams.release_records import EmbeddingRow

_MAX_ROWS = 1 << 22  # a wrong index must not make a reader allocate without bound
_MISSING = -1


def reserved_keys() -> NDArray[np.int64]:
    """Return the keys of the reserved rows, in row order."""
    return np.arange(FIRST_ROW, dtype=np.int64) - FIRST_ROW


def digest(keys: NDArray[np.int64], E: NDArray[np.float32]) -> str:
    """Return the SHA-256 of keys (i8 [rows], reserved ones included) and E (f4 [rows, d]), little-endian."""
    sha = hashlib.sha256(np.ascontiguousarray(keys, dtype="<i8").tobytes())
    sha.update(np.ascontiguousarray(E, dtype="<f4").tobytes())
    return sha.hexdigest()


class ItemRows:
    """Rows of E by version, for versions from `merged` on. Memory: one table, and the rows changed since."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._keys = np.zeros(0, dtype=np.int64)
        self._base = np.zeros((0, dim), dtype=np.float32)
        self._version = np.zeros(0, dtype=np.int64)  # of the row in the base; _MISSING: none yet
        self._deltas: dict[int, dict[int, bytes]] = {}
        self._known = np.zeros(0, dtype=bool)
        self._merged = -1

    def put(self, row: EmbeddingRow) -> None:
        """Add a row. Raises RecordError if it is invalid."""
        if not 0 <= row.index < _MAX_ROWS or row.encoder < 0:
            raise RecordError(f"row {row.index} of encoder {row.encoder}: out of range")
        vector = row.vector.expect(f"row {row.index}", "<f4", (self._dim,))
        self._grow(row.index + 1)
        if self._known[row.index] and self._keys[row.index] != row.item:
            raise RecordError(f"row {row.index} is item {self._keys[row.index]}'s, not {row.item}'s")
        self._keys[row.index] = row.item
        self._known[row.index] = True
        if row.encoder > self._merged:
            self._deltas.setdefault(row.encoder, {})[row.index] = row.vector.data
        elif row.encoder >= self._version[row.index]:
            self._base[row.index] = vector
            self._version[row.index] = row.encoder

    def replace(self, version: int, keys: NDArray[np.int64], E: NDArray[np.float32]) -> None:
        """Add a complete, verified table of `version` over all rows present."""
        self._grow(len(keys))
        self._keys[: len(keys)] = keys
        self._known[: len(keys)] = True
        if version > self._merged:
            self._deltas[version] = {index: vector.tobytes() for index, vector in enumerate(E)}
        else:
            self._base[: len(keys)] = E
            self._version[: len(keys)] = version

    def assemble(self, version: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Return keys i8 [rows] and E f4 [rows, d] of `version`; None while a row is missing."""
        if rows > len(self._keys) or not self._known[:rows].all():
            return None
        E = self._base[:rows].copy()
        present = self._version[:rows] != _MISSING
        for encoder in sorted(self._deltas):
            if encoder <= version:
                _apply(self._deltas[encoder], E, present)
        return (self._keys[:rows].copy(), E) if present.all() else None

    def merge_up_to(self, version: int) -> None:
        """Merge all versions up to `version`: no reader needs an older one."""
        for encoder in sorted(self._deltas):
            if encoder <= version:
                delta = self._deltas.pop(encoder)
                fresh = {i: vector for i, vector in delta.items() if encoder >= self._version[i]}
                _apply(fresh, self._base, np.zeros(len(self._base), dtype=bool))
                self._version[list(fresh)] = encoder
        self._merged = max(self._merged, version)

    def _grow(self, rows: int) -> None:
        if rows <= len(self._keys):
            return
        more = max(rows, 2 * len(self._keys), 1024) - len(self._keys)
        self._keys = np.append(self._keys, np.zeros(more, dtype=np.int64))
        self._known = np.append(self._known, np.zeros(more, dtype=bool))
        self._base = np.append(self._base, np.zeros((more, self._dim), dtype=np.float32), axis=0)
        self._version = np.append(self._version, np.full(more, _MISSING))


def _apply(delta: dict[int, bytes], E: NDArray[np.float32], present: NDArray[np.bool_]) -> None:
    rows = np.fromiter(delta, dtype=np.int64, count=len(delta))
    vectors = np.frombuffer(b"".join(delta.values()), dtype="<f4").reshape(len(rows), E.shape[1])
    inside = rows < len(E)
    E[rows[inside]] = vectors[inside]
    present[rows[inside]] = True
