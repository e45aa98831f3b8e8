"""The minimum of a smooth function of a few weights, by Newton's method with a damped Hessian."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import hessian

_STEPS = 100
_DAMPING_MAX = 1e12


def minimum(value: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return the weights [F] near `start` at which `value` is smallest.

    The curvature along each eigenvector of the Hessian is taken as positive and damped until the value falls (Levenberg
    & Marquardt), so that the search goes down where the function is not convex, too.
    """
    weights, damping = start.detach(), 1e-6
    for _ in range(_STEPS):
        point = weights.clone().requires_grad_()
        found = value(point)
        (gradient,) = torch.autograd.grad(found, point)
        curvature, directions = torch.linalg.eigh(hessian(value, weights))  # type: ignore[no-untyped-call]  # untyped in torch
        along = directions.t() @ gradient
        while damping < _DAMPING_MAX:
            step = directions @ (along / (curvature.abs() + damping))
            with torch.no_grad():
                falls = bool(value(weights - step) < found)
            damping = max(damping / 10, 1e-12) if falls else damping * 10
            if falls:
                weights = weights - step
                break
        else:
            break
        if step.abs().max() < 1e-9:
            break
    return weights
