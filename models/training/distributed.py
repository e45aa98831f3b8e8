"""Distributed training over the processes that torchrun started.

All processes draw the same batches from the same generator, and each computes its part of every batch. Gradients are
averaged: those of the nets by DistributedDataParallel, those of a batch's rows of the item table here. Each part's loss
is weighted by its size, so that the average is the gradient of the whole batch. With one process all collectives are
no-ops.
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

_NONE = -(1 << 62)


@dataclass(frozen=True)
class ProcessGroup:
    """Rank and number of the processes that train together."""

    rank: int = 0
    world_size: int = 1

    def from_first(self, find: Callable[[], int | None]) -> int | None:
        """Return what `find` returns on rank 0; the other ranks wait for it and do not call theirs."""
        number = find() if self.rank == 0 else None
        if self.world_size == 1:
            return number
        shared = torch.tensor(_NONE if number is None else int(number))  # a tensor, since objects would be pickled
        distributed.broadcast(shared, src=0)
        return None if shared == _NONE else int(shared)

    def average(self, values: Tensor) -> Tensor:
        """Replace `values` by their mean over all processes, and return them."""
        if self.world_size > 1:
            distributed.all_reduce(values)
            values /= self.world_size
        return values

    def data_parallel(self, net: nn.Module) -> nn.Module:
        """Return `net` with rank 0's weights and gradients averaged over all processes."""
        return DistributedDataParallel(net, broadcast_buffers=False) if self.world_size > 1 else net


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started; without torchrun yield SINGLE_PROCESS."""
    if not distributed.is_torchelastic_launched():
        yield SINGLE_PROCESS
        return
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:  # all run on this machine: use its loopback
        os.environ.setdefault("GLOO_SOCKET_IFNAME", next(n for _, n in socket.if_nameindex() if n.startswith("lo")))
    distributed.init_process_group("gloo")
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
