"""The popularity of the items of a generated log."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def popularity(items: int, exponent: float) -> NDArray[np.float64]:
    """Return the cumulated shares of items, the most popular one first, by a power law of their rank."""
    cumulated = np.cumsum(1 / np.arange(1, items + 1) ** exponent)
    return np.asarray(cumulated / cumulated[-1])
