"""A lower bound of training time: the matrix products alone, each timed by itself."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
Product = tuple[int, int, int, int]  # number of products, each of [M, K] with [K, N]


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch ships it so
    """Count the matrix products computed in this context by shape, those of attention included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the shapes and call the function."""
        op = func.overloadpacket
        if op in {aten.mm, aten.addmm}:
            a, b = args[-2:]
            self.counts[1, a.shape[0], a.shape[1], b.shape[1]] += 1
        elif op in {aten.bmm, aten.baddbmm}:
            a, b = args[-2:]
            self.counts[a.shape[0], a.shape[1], a.shape[2], b.shape[2]] += 1
        elif op is aten._scaled_dot_product_flash_attention_for_cpu:  # noqa: SLF001 - torch's name for it
            self._attention(args[0], forward=1, other=1)
        elif op is aten._scaled_dot_product_flash_attention_for_cpu_backward:  # noqa: SLF001 - the same
            self._attention(args[1], forward=2, other=3)
        return func(*args, **(kwargs or {}))

    def _attention(self, queries: torch.Tensor, forward: int, other: int) -> None:
        """Return the products of attention on [.., L, d] and of its gradients."""
        batch, heads, length, dim = queries.shape
        self.counts[batch * heads, length, dim, length] += forward
        self.counts[batch * heads, length, length, dim] += other

    def flops(self) -> int:
        """Return the floating-point operations of all products."""
        return sum(count * 2 * b * m * k * n for (b, m, k, n), count in self.counts.items())


def seconds(counts: Counter[Product], least: float = 0.003) -> float:
    """Return the CPU seconds of all products, each shape timed alone for at least `least` seconds."""
    return sum(count * _timed(shape, least) for shape, count in counts.items())


def _timed(shape: Product, least: float) -> float:
    b, m, k, n = shape
    left, right = torch.randn(b, m, k), torch.randn(b, k, n)
    product, operands = (torch.mm, (left[0], right[0])) if b == 1 else (torch.bmm, (left, right))
    product(*operands)
    best = float("inf")
    for _ in range(2):  # the better of two: other processes only make it slower
        done, began, spent = 0, time.process_time(), 0.0
        while spent < least:
            product(*operands)
            done += 1
            spent = time.process_time() - began
        best = min(best, spent / done)
    return best
