"""What the cloud keeps of a user, as packed bytes: the last r2's and the long, delayed history; and how they change.

The history is what was *uploaded*, at the ends of epochs. A request names the epoch in which it was made and the
window whose r2 it must see, so that asked again after a crash, when the cloud has moved on, it is answered the same.
A row a user, under the user's name, and one a partition (see `packed`).
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

KEPT_R2 = 2


class R2(msgspec.Struct, array_like=True, frozen=True):
    """The negative memory of a window under an encoder: `data` is f4 [d]."""

    window: int
    encoder: int
    data: bytes


class CloudState(msgspec.Struct, array_like=True, frozen=True):
    """One user's state. Clicks are item keys, oldest first: `last` came up in epoch `epoch`, `before` earlier."""

    memories: tuple[R2, ...] = ()  # the newest if others came again after it, then the last KEPT_R2 to arrive, in order
    before: tuple[int, ...] = ()  # at most L_S
    last: tuple[int, ...] = ()  # at most L_S
    epoch: int = -1  # of the last upload

    def remembering(self, r2: R2) -> CloudState:
        """The state with an r2 received; one that is kept already is now the last to have come.

        Where older ones come again, the newest stays: a request that names it may be delivered again as well.
        """
        others = tuple(kept for kept in self.memories if (kept.window, kept.encoder) != (r2.window, r2.encoder))
        came = (*others, r2)
        last, newest = came[-KEPT_R2:], max(came, key=lambda kept: (kept.window, kept.encoder))
        return msgspec.structs.replace(self, memories=last if newest in last else (newest, *last))

    def uploaded(self, epoch: int, clicks: tuple[int, ...], history_long: int) -> CloudState:
        """The state with the clicks of an epoch; an epoch that is not newer is a repeat and changes nothing."""
        if epoch <= self.epoch:
            return self
        before = (self.before + self.last)[-history_long:]
        return msgspec.structs.replace(self, before=before, last=clicks[-history_long:], epoch=epoch)

    def history(self, epoch: int, history_long: int) -> NDArray[np.int64]:
        """The clicks that a request of `epoch` may see: i8 [<= L_S], those uploaded in earlier epochs."""
        seen = self.before + self.last if self.epoch < epoch else self.before
        return np.array(seen[-history_long:], dtype=np.int64)

    def moved_past(self, window: int, encoder: int) -> bool:
        """Whether a later r2 than this came up: then a request that names this one was answered before it came."""
        return any((kept.window, kept.encoder) > (window, encoder) for kept in self.memories)

    def r2(self, window: int, encoder: int) -> bytes | None:
        """The r2 of a window under an encoder, where it is kept."""
        for kept in self.memories:
            if (kept.window, kept.encoder) == (window, encoder):
                return kept.data
        return None


class PartitionState(msgspec.Struct, array_like=True, frozen=True):
    """How far a partition is: the last epoch whose uploads are all in, and whether the log is over."""

    ended: int = -1
    over: bool = False

    def passing(self, epoch: int, *, over: bool) -> PartitionState:
        """The state with a mark received."""
        return PartitionState(max(self.ended, epoch), self.over or over)
