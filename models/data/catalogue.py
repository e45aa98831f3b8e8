"""The catalogue: which item has which row of the item table E.

Rows are handed out once and never move, so that a vector published for a row stays that item's for good. Two rows are
reserved: padding (always zero) and the row of items without one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROW_PADDING = 0
ROW_UNKNOWN = 1
FIRST_ROW = 2


class Catalogue:
    """Item keys in row order: the item at place i has row `FIRST_ROW + i`."""

    def __init__(self, keys: ArrayLike) -> None:
        """`keys` is i8 [items]. Raises ValueError where a key stands twice."""
        self.keys: NDArray[np.int64] = np.array(keys, dtype=np.int64).reshape(-1)
        self.keys.flags.writeable = False
        self._order = np.argsort(self.keys, kind="stable")
        self._sorted = self.keys[self._order]
        if len(self) and bool((self._sorted[1:] == self._sorted[:-1]).any()):
            raise ValueError("an item stands twice in the catalogue")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size(self) -> int:
        """Rows of E, the reserved ones included."""
        return FIRST_ROW + len(self)

    def rows(self, keys: ArrayLike) -> NDArray[np.int64]:
        """The rows of `keys`, of the same shape; ROW_UNKNOWN for items without one."""
        wanted: NDArray[np.int64] = np.asarray(keys, dtype=np.int64)
        if not len(self):
            return np.full(wanted.shape, ROW_UNKNOWN, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._sorted, wanted), len(self) - 1)
        found = self._sorted[place] == wanted
        rows: NDArray[np.int64] = np.where(found, self._order[place] + FIRST_ROW, ROW_UNKNOWN)
        return rows

    def extended(self, new_keys: ArrayLike) -> Catalogue:
        """A catalogue with those of `new_keys` that this one lacks appended, in their order of first appearance."""
        wanted: NDArray[np.int64] = np.asarray(new_keys, dtype=np.int64).reshape(-1)
        _, first = np.unique(wanted, return_index=True)
        unique = wanted[np.sort(first)]
        return Catalogue(np.concatenate([self.keys, unique[self.rows(unique) == ROW_UNKNOWN]]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalogue) and np.array_equal(self.keys, other.keys)

    __hash__ = None  # type: ignore[assignment]  # compared by its arrays
