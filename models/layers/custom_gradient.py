"""Support for functions with hand-written gradients: the type of torch's context, and their application."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function


class GradientContext(Protocol):
    """The part of torch's context that forward and backward passes use."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep `tensors` for the backward pass."""
        ...


def apply_function(function: type[Function], *inputs: Tensor) -> Tensor:
    """Apply a function with a hand-written gradient, in full precision even under autocast."""
    apply = function.apply
    if torch.compiler.is_compiling():  # the function loops over data, so there is nothing to trace
        apply = torch.compiler.disable(apply)  # type: ignore[no-untyped-call]  # untyped in torch
    with torch.autocast(inputs[0].device.type, enabled=False):
        whole = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in inputs)
        result: Tensor = apply(*whole)  # type: ignore[no-untyped-call]  # untyped in torch
    return result
