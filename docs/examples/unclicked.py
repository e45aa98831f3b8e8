"""A candidate rule: negatives drawn uniformly from the items that the user has not just clicked."""

import numpy as np

from streams.plugins.protocols import Draw, Keys


def unclicked(draw: Draw) -> Keys:
    """Return the keys of the negatives."""
    free = np.setdiff1d(draw.catalogue, np.append(draw.clicks, draw.target))
    return draw.random.choice(free, min(draw.count, len(free)), replace=False)
