"""Rows of the cloud's table: a user's uploaded clicks and newest r2s, and a partition's progress.

The click history is delayed: it consists of what was uploaded at the ends of epochs. A request names its epoch and the
window whose r2 the answer must use. So a request that is repeated after a crash gets the same answer, although the
cloud has received more in between.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

KEPT_R2 = 2


class R2(msgspec.Struct, array_like=True, frozen=True):
    """The r2 of a window under an encoder: `data` is f4 [d]."""

    window: int
    encoder: int
    data: bytes


class CloudState(msgspec.Struct, array_like=True, frozen=True):
    """One user's state. Clicks are item keys, oldest first."""

    r2s: tuple[R2, ...] = ()  # the last KEPT_R2 received, in order; the newest first if it is not one of them
    earlier_clicks: tuple[int, ...] = ()  # at most L_S, uploaded before `epoch`
    last_clicks: tuple[int, ...] = ()  # at most L_S, of epoch `epoch`
    epoch: int = -1  # of the last upload

    def with_r2(self, r2: R2) -> CloudState:
        """Return the state after an r2 was received; one that was received before moves to the end.

        The newest r2 is kept even if older ones are received again: a request that names it may be repeated too.
        """
        others = tuple(kept for kept in self.r2s if (kept.window, kept.encoder) != (r2.window, r2.encoder))
        received = (*others, r2)
        last, newest = received[-KEPT_R2:], max(received, key=lambda kept: (kept.window, kept.encoder))
        return msgspec.structs.replace(self, r2s=last if newest in last else (newest, *last))

    def with_upload(self, epoch: int, clicks: tuple[int, ...], history_long: int) -> CloudState:
        """Return the state with the clicks of an epoch; unchanged if the upload is a repeat (epoch not newer)."""
        if epoch <= self.epoch:
            return self
        earlier = (self.earlier_clicks + self.last_clicks)[-history_long:]
        last = clicks[-history_long:]
        return msgspec.structs.replace(self, earlier_clicks=earlier, last_clicks=last, epoch=epoch)

    def history(self, epoch: int, history_long: int) -> NDArray[np.int64]:
        """Return the clicks that a request of `epoch` may use: i8 [<= L_S], those uploaded in earlier epochs."""
        clicks = self.earlier_clicks + self.last_clicks if self.epoch < epoch else self.earlier_clicks
        return np.array(clicks[-history_long:], dtype=np.int64)

    def has_later_r2(self, window: int, encoder: int) -> bool:
        """Return True if a later r2 was received: then a request that names this one was answered before."""
        return any((kept.window, kept.encoder) > (window, encoder) for kept in self.r2s)

    def r2(self, window: int, encoder: int) -> bytes | None:
        """Return the r2 of a window under an encoder, or None if it is not kept."""
        for kept in self.r2s:
            if (kept.window, kept.encoder) == (window, encoder):
                return kept.data
        return None


class CloudPartitionState(msgspec.Struct, array_like=True, frozen=True):
    """A partition's progress: the last epoch of which all uploads are applied, and if the log is over."""

    ended: int = -1
    over: bool = False

    def with_marker(self, epoch: int, *, over: bool) -> CloudPartitionState:
        """Return the state after an epoch marker."""
        return CloudPartitionState(max(self.ended, epoch), self.over or over)
