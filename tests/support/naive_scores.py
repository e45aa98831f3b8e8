"""The equations in numpy and plain loops over items and candidates: a second implementation without models/."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def mlp(w: Mapping[str, Array], x: Array) -> float:
    for layer in ("first", "second"):
        x = np.maximum(w[f"{layer}.weight"] @ x + w[f"{layer}.bias"], 0)
    return float((w["last.weight"] @ x + w["last.bias"])[0])


def part(w: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix + "."): x for name, x in w.items() if name.startswith(prefix + ".")}


def gru(w: Mapping[str, Array], items: list[Array], h: Array) -> Array:
    d = len(h)
    for x in items:
        a, b = w["w_ih"] @ x + w["b_ih"], w["w_hh"] @ h + w["b_hh"]
        r, z = sigmoid(a[:d] + b[:d]), sigmoid(a[d : 2 * d] + b[d : 2 * d])
        n = np.tanh(a[2 * d :] + r * b[2 * d :])
        h = (1 - z) * n + z * h
    return h


def din(w: Mapping[str, Array], history: list[Array], e: Array) -> Array:
    r_t = np.zeros(len(e))
    for h in history:
        r_t += mlp(part(w, "slow.din.unit"), np.concatenate([h, e, h * e])) * h
    return r_t


def fuse(w: Mapping[str, Array], r1: Array, r2: Array, e: Array) -> Array:
    g1 = mlp(part(w, "fast.gate_p"), np.concatenate([r1, e]))
    g2 = mlp(part(w, "fast.gate_n"), np.concatenate([r2, e]))
    w1 = 1 / (1 + np.exp(g2 - g1))
    return w1 * r1 + (1 - w1) * r2


def priors(w: Mapping[str, Array], history: list[Array], r2: Array, e: Array) -> tuple[Array, Array]:
    after = gru(part(w, "encoder.gru_n"), [e], r2)
    gate = sigmoid(w["slow.w_s.weight"] @ np.concatenate([after, e]) + w["slow.w_s.bias"])
    return din(w, history, e), after * gate


def slow_scores(
    w: Mapping[str, Array], r_t: Array, r_n: Array, e: Array, *, product: bool = False
) -> tuple[float, float]:
    """Logits of eq. (2) and (6), with or without an inner product beside them."""
    near = float(r_t @ e) if product else 0.0
    return (
        mlp(part(w, "slow.head_din"), np.concatenate([r_t, e])) + near,
        mlp(part(w, "slow.head_f2s"), np.concatenate([r_n, r_t, e])) + near,
    )


def fast_scores(
    w: Mapping[str, Array],
    clicks: list[Array],
    exposures: list[Array],
    e: Array,
    r_t: Array,
    r_n: Array,
    *,
    product: bool = False,
) -> tuple[float, float]:
    """Logits of eq. (4) and (8), with or without an inner product beside them."""
    gru_p, gru_n, zero = part(w, "fast.gru_p"), part(w, "encoder.gru_n"), np.zeros(len(e))
    alone = fuse(w, gru(gru_p, clicks, zero), gru(gru_n, exposures, zero), e)
    alpha = sigmoid(w["fast.w0.weight"] @ np.concatenate([r_n, r_t]) + w["fast.w0.bias"])
    r_f = alpha * r_n + (1 - alpha) * r_t
    z_p = np.maximum(w["fast.w1.weight"] @ r_f + w["fast.w1.bias"], 0)
    z_n = np.maximum(w["fast.w2.weight"] @ r_f + w["fast.w2.bias"], 0)
    helped = fuse(w, gru(gru_p, clicks, z_p), gru(gru_n, exposures, z_n), e)
    return (
        mlp(part(w, "fast.head_fast"), np.concatenate([alone, e])) + product * float(alone @ e),
        mlp(part(w, "fast.head_s2f"), np.concatenate([helped, r_t, e])) + product * float(helped @ e),
    )
