"""Views: the data that the nets may use to predict a click. Serving, training and evaluation use this module.

A click is predicted with the state before the first event of its impression group (see `impression_groups`):
- history: the last L_S *uploaded* clicks, that is, those of earlier epochs;
- window: the exposures of the last closed window (see `windows`), from which the cloud's r2 is computed;
- clicks, exposures: the last L_F of each on the device, from closed and open windows alike.
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
    """Return the view for a state; each array, oldest first, is the full history or its last part from a ring buffer.

    The last `open_count` of `exposure_keys` are the open window, the `closed_count` before them (default: the
    threshold) are window number `window`, the last closed one (0: none). Raises ValueError if there are fewer.
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
    """Return the last `n` keys, or all if there are fewer."""
    return keys[max(0, len(keys) - n) :]
