"""The gate: checks a release candidate before it becomes a release. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from models.mc2sf.checkpoint import CheckpointError, unpack
from models.mc2sf.nets import PARTS, NetConfig


def refuse_quality(quality: Mapping[str, float | None], margin: float) -> str | None:
    """Return the reason why held-out quality forbids the release, or None.

    `quality` has the held-out losses `active` and `candidate` on the same `n` examples; `finite` is true if all weights
    of the candidate are finite. The candidate's loss may be higher by the share `margin`, and by `radius`, the half
    width of the interval of the difference, if there is one; None: the examples are too few for an interval.
    """
    n, finite = quality.get("n"), quality.get("finite")
    active, candidate = (_number(quality.get(name)) for name in ("active", "candidate"))
    if not n:
        return "no held-out examples"
    if not finite or not math.isfinite(candidate):
        return "not finite"
    radius = quality.get("radius", 0.0)
    allowed = active * (1 + margin) + (math.inf if radius is None else radius)
    if math.isfinite(active) and candidate > allowed:
        return f"held-out loss {candidate:.6f} against {active:.6f} on {n} examples"
    return None


def refuse_weights(config: NetConfig, parts: Mapping[str, bytes], E: NDArray[np.float32]) -> str | None:
    """Return the reason why the weights cannot be released (sizes, a missing part, a number not finite), or None."""
    try:
        nets = unpack(config, parts, E)
    except CheckpointError as error:
        return str(error)
    for part in PARTS:
        if not all(bool(torch.isfinite(weight).all()) for weight in nets.get_submodule(part).state_dict().values()):
            return f"part {part} has a weight that is not finite"
    return None


def number_or_none(value: float) -> float | None:
    """Return `value`, or None if it is not finite: JSON has no such numbers."""
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def accepted_because(quality: Mapping[str, float | None]) -> str:
    """Return the reason to record with an accepted candidate."""
    active, candidate = (_number(quality[name]) for name in ("active", "candidate"))
    return f"held-out loss {candidate:.6f} against {active:.6f} on {quality['n']} examples"
