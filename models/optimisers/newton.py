"""Minimisation of a smooth function of a few weights by Newton's method with a damped Hessian."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import hessian

_STEPS = 100
_DAMPING_MAX = 1e12


def minimum(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return the weights [F] of the minimum of `function` near `start`.

    The curvature along each eigenvector of the Hessian is taken as positive and damped until the value decreases
    (Levenberg & Marquardt), so that steps descend where the function is not convex, too.
    """
    weights, damping = start.detach(), 1e-6
    for _ in range(_STEPS):
        point = weights.clone().requires_grad_()
        value = function(point)
        (gradient,) = torch.autograd.grad(value, point)
        curvature, directions = torch.linalg.eigh(hessian(function, weights))  # type: ignore[no-untyped-call]  # untyped in torch
        slopes = directions.t() @ gradient  # along each eigenvector
        while damping < _DAMPING_MAX:
            step = directions @ (slopes / (curvature.abs() + damping))
            with torch.no_grad():
                decreases = bool(function(weights - step) < value)
            damping = max(damping / 10, 1e-12) if decreases else damping * 10
            if decreases:
                weights = weights - step
                break
        else:
            break
        if step.abs().max() < 1e-9:
            break
    return weights
