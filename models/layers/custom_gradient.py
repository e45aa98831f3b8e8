"""Application of functions with hand-written gradients, and the type of their context."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function


class GradientContext(Protocol):
    """The methods of torch's context that forward and backward passes use."""

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
        full_precision = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in inputs)
        result: Tensor = apply(*full_precision)  # type: ignore[no-untyped-call]  # untyped in torch
    return result
