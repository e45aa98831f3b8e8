"""The processes among which a training is cut, as torchrun started them.

All draw the same batches from the same generator, and each takes its part of every batch. The gradients are averaged:
those of the nets by DistributedDataParallel, those of a batch's rows of the item table here. A part's loss is weighted
by its size, so that the average is the gradient of the whole batch. One process alone is a crew of one, and does no
more than it would without any of this.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

_NOTHING = -(1 << 62)


@dataclass(frozen=True)
class ProcessGroup:
    """Process `rank` of the `world` that compute together."""

    rank: int = 0
    world: int = 1

    def from_first(self, find: Callable[[], int | None]) -> int | None:
        """The number that `find` returns on rank 0; the others wait for it and do not call theirs."""
        found = find() if self.rank == 0 else None
        if self.world == 1:
            return found
        number = torch.tensor(_NOTHING if found is None else int(found))  # a number, as objects would be pickled
        distributed.broadcast(number, src=0)
        return None if number == _NOTHING else int(number)

    def average(self, values: Tensor) -> Tensor:
        """The mean of `values` over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
            values /= self.world
        return values

    def data_parallel(self, net: nn.Module) -> nn.Module:
        """`net` with rank 0's weights, and with gradients that are averaged whenever they are computed."""
        return DistributedDataParallel(net) if self.world > 1 else net


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The processes that torchrun started beside this one; where it started none, this one alone."""
    if not distributed.is_torchelastic_launched():
        yield SINGLE_PROCESS
        return
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:  # all are on this machine: nothing shall leave it
        os.environ.setdefault("GLOO_SOCKET_IFNAME", next(n for _, n in socket.if_nameindex() if n.startswith("lo")))
    distributed.init_process_group("gloo")
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
