"""A user on the device while a batch is applied: the state with GRU states that may still have to be computed."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from models.data.catalogue import Catalogue
from models.data.item_statistics import ItemStatistics
from models.data.views import ViewSpec
from streams.codec import Tensor
from streams.device.deferred_gru import GruState, computed
from streams.records import NegativeMemory, Versions
from streams.settings import Settings
from streams.state.device import DeviceState


@dataclass(frozen=True, slots=True)
class DeferredNegativeMemory:
    """A NegativeMemory whose r2 may still have to be computed."""

    user: str
    window: int
    r2: GruState
    encoder: int
    size: int
    time: int

    def resolve(self) -> NegativeMemory:
        """Return the record, once r2 is computed."""
        r2 = computed(self.r2)
        tensor = Tensor("<f4", (len(r2) // 4,), r2)
        return NegativeMemory(self.user, self.window, tensor, self.encoder, self.size, self.time)


@dataclass(frozen=True, slots=True)
class Context:
    """The context in which a batch is applied: the settings, and the values set by the partition's epoch markers."""

    settings: Settings
    spec: ViewSpec
    epoch: int
    versions: Versions
    catalogue: Catalogue
    item_statistics: ItemStatistics  # as of the begin of the epoch; free-running of an earlier one, the newest known
    ended: int = -1  # the last epoch that ended: its clicks are uploaded
    asked_wall: int = 0
    resend_r2: bool = False  # before the first request: the cloud may hold a later r2 than the user's last one


@dataclass(frozen=True, slots=True)
class User:
    """A user's state. `gru_state` and `r2` replace those in `state`, which are out of date."""

    state: DeviceState
    gru_state: GruState
    r2: GruState

    @classmethod
    def of(cls, state: DeviceState) -> User:
        """Return the user with a state from the table."""
        return cls(state, state.gru_state, state.r2)

    def resolve(self) -> DeviceState:
        """Return the state, once the GRU states are computed."""
        return msgspec.structs.replace(self.state, gru_state=computed(self.gru_state), r2=computed(self.r2))
