"""A variant: items near the last click, by the item vectors of the release in force, and otherwise popular ones."""

import numpy as np
from numpy.typing import NDArray

from streams.plugins.protocols import Seen


class LastClick:
    """The inner product with the last click, and the bucket of an item's share of clicks."""

    def __call__(self, seen: Seen) -> NDArray[np.float64]:
        """Return the scores of the candidates."""
        popular = seen.item_statistics[:, 0].astype(np.float64)
        if not len(seen.clicks):
            return popular
        last = seen.vectors(seen.clicks[-1:])[0]
        return popular + np.array([np.dot(each, last) for each in seen.vectors(seen.candidates)])
