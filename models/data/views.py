"""The one place that says what a click's nets may see: serving, retraining, learning and evaluation all build it here.

A *unit* is an impression, or a single event without one. A click is seen with the state before the first event of its
unit:
- history: the last L_S clicks *uploaded*, that is, of earlier epochs;
- window: the exposures of the last closed window, whose r2 the cloud holds;
- clicks, exposures: the last L_F of each on the device, closed and open windows alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.data.windows import WindowRule, split_windows

Keys = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ViewSpec(WindowRule):
    """Lengths of the histories, with the window rule."""

    history_long: int = 50  # L_S
    history_short: int = 10  # L_F


class View(NamedTuple):
    """Item keys, oldest first; `window` is the number of the last closed window, 0 = none."""

    history: Keys  # <= L_S
    window: int
    window_items: Keys  # <= threshold
    clicks: Keys  # <= L_F
    exposures: Keys  # <= L_F


def view(
    uploaded_keys: Keys,
    click_keys: Keys,
    exposure_keys: Keys,
    open_count: int,
    window: int,
    spec: ViewSpec,
    *,
    closed_count: int | None = None,
) -> View:
    """The view from a state: each array is the whole prefix or a ring's suffix of it, oldest first.

    The last `open_count` of `exposure_keys` belong to the open window, the `closed_count` (default: the threshold)
    before them to window number `window`, the last closed one (0: there is none).
    """
    size = (spec.threshold if closed_count is None else closed_count) if window else 0
    closed, _ = split_windows(exposure_keys, open_count, size)
    return View(
        history=_last(uploaded_keys, spec.history_long),
        window=window,
        window_items=closed,
        clicks=_last(click_keys, spec.history_short),
        exposures=_last(exposure_keys, spec.history_short),
    )


def _last(keys: Keys, n: int) -> Keys:
    return keys[max(0, len(keys) - n) :]
