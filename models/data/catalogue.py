"""The catalogue: the mapping from items to rows of the item table E.

An item's row never changes, so that a published vector always belongs to the same item. Two rows are reserved:
padding (always zero) and the row of all unknown items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROW_PADDING = 0
ROW_UNKNOWN = 1
FIRST_ROW = 2


class Catalogue:
    """Item keys in row order: the item at index i has row `FIRST_ROW + i`."""

    def __init__(self, keys: ArrayLike) -> None:
        """Take item keys, i8 [items]. Raises ValueError if a key occurs twice."""
        self.keys: NDArray[np.int64] = np.array(keys, dtype=np.int64).reshape(-1)
        self.keys.flags.writeable = False
        self._order = np.argsort(self.keys, kind="stable")
        self._sorted = self.keys[self._order]
        if len(self) and bool((self._sorted[1:] == self._sorted[:-1]).any()):
            raise ValueError("an item occurs twice in the catalogue")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size(self) -> int:
        """Number of rows of E, reserved ones included."""
        return FIRST_ROW + len(self)

    def rows(self, keys: ArrayLike) -> NDArray[np.int64]:
        """Return the rows of `keys`, of the same shape; ROW_UNKNOWN for items that are not in the catalogue."""
        keys = np.asarray(keys, dtype=np.int64)
        if not len(self):
            return np.full(keys.shape, ROW_UNKNOWN, dtype=np.int64)
        index = np.minimum(np.searchsorted(self._sorted, keys), len(self) - 1)
        known = self._sorted[index] == keys
        rows: NDArray[np.int64] = np.where(known, self._order[index] + FIRST_ROW, ROW_UNKNOWN)
        return rows

    def extended(self, new_keys: ArrayLike) -> Catalogue:
        """Return a catalogue with the missing ones of `new_keys` appended in order of their first occurrence."""
        keys: NDArray[np.int64] = np.asarray(new_keys, dtype=np.int64).reshape(-1)
        _, first = np.unique(keys, return_index=True)
        unique = keys[np.sort(first)]
        return Catalogue(np.concatenate([self.keys, unique[self.rows(unique) == ROW_UNKNOWN]]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalogue) and np.array_equal(self.keys, other.keys)

    __hash__ = None  # type: ignore[assignment]  # compared by its arrays
