"""What comes of a request: the fast nets' scores with the priors received, the ranks, the outcome and the example."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.data.catalogue import Catalogue
from models.evaluation.metrics import rank
from models.mc2sf.tiled_scorer import Scorer
from streams.codec import RecordError, Tensor
from streams.records import EXAMPLE_NEGATIVES, FastExample, Outcome, SlowPriors
from streams.releases.item_statistics import buckets_array
from streams.settings import Settings
from streams.state.device import Pending, keys_array


def answers(priors: SlowPriors, pending: Pending) -> bool:
    """Whether the priors answer the request as it stands, not an earlier asking of it.

    The cloud answers under the release that a request names, and no other. Where a worker died before it kept the
    request, its event asks again, free-running perhaps under a newer release: then two answers come, and only one was
    made of the candidates, the encoder and the slow part that the outcome will name.
    """
    return priors.versions == pending.versions


def check(priors: SlowPriors, pending: Pending, settings: Settings) -> None:
    """Raise RecordError where the priors don't fit the request."""
    if not 0 <= priors.history <= settings.history_long:
        raise RecordError(f"a history of {priors.history} clicks: the cloud keeps {settings.history_long}")
    if priors.window not in (0, pending.window):
        raise RecordError(f"r2 of window {priors.window}, not of {pending.window}")
    n, dim = len(keys_array(pending.candidates)), settings.dim
    for name, tensor in (("r_t", priors.r_t), ("r_n", priors.r_n)):
        tensor.expect(name, "<f2", (n, dim))
    for name, tensor in (("din", priors.din), ("f2s", priors.f2s)):
        tensor.expect(name, "<f4", (n,))


def answered(
    pending: Pending, priors: SlowPriors, scorer: Scorer, catalogue: Catalogue, seed: int, bytes_down: int, wall: int
) -> tuple[Outcome, FastExample | None]:
    """The outcome of an answered request, and the example to learn from where there are enough candidates."""
    keys = keys_array(pending.candidates)
    r_t, r_n = priors.r_t.array(), priors.r_n.array()
    clicks, exposures, candidates = _rows(pending, catalogue)
    stands = buckets_array(pending.standing, len(keys))
    scores = scorer.fast(clicks, exposures, candidates, r_t, r_n, stands)
    ranks, not_finite = {"random": pending.place + 1}, 0
    for name, values in (
        ("din", priors.din.array()),
        ("f2s", priors.f2s.array()),
        ("fast", scores.fast),
        ("mc2sf", scores.mc2sf),
    ):
        ranks[name], bad = rank(values, pending.place)
        not_finite += bad
    outcome = _outcome(pending, ranks, not_finite, priors.window, priors.history, bytes_down, wall, expired=False)
    if pending.cold or len(keys) <= EXAMPLE_NEGATIVES:
        return outcome, None
    chosen = _drawn(seed, pending, len(keys))
    example = FastExample(
        user=pending.user,
        seq=pending.seq,
        epoch=pending.epoch,
        time=pending.time,
        clicks=Tensor.of(keys_array(pending.clicks), "<i8"),
        exposures=Tensor.of(keys_array(pending.exposures), "<i8"),
        items=Tensor.of(keys[chosen], "<i8"),
        r_t=Tensor.of(r_t[chosen], "<f2"),
        r_n=Tensor.of(r_n[chosen], "<f2"),
        versions=pending.versions,
        item_statistics=stands[chosen].tobytes(),
    )
    return outcome, example


def expired(pending: Pending, scorer: Scorer, catalogue: Catalogue, wall: int) -> Outcome:
    """The outcome of a request that got no answer in time: the fast part alone."""
    clicks, exposures, candidates = _rows(pending, catalogue)
    nothing = np.zeros((len(candidates), scorer.config.dim), np.float16)
    stands = buckets_array(pending.standing, len(candidates))
    place, bad = rank(scorer.fast(clicks, exposures, candidates, nothing, nothing, stands).fast, pending.place)
    ranks = {"random": pending.place + 1, "fast": place}
    return _outcome(pending, ranks, bad, pending.window, 0, 0, wall, expired=True)


def _rows(pending: Pending, catalogue: Catalogue) -> list[NDArray[np.int64]]:
    return [catalogue.rows(keys_array(k)) for k in (pending.clicks, pending.exposures, pending.candidates)]


def _drawn(seed: int, pending: Pending, n: int) -> NDArray[np.int64]:
    """The target's place, then those of the negatives: the first by a hash of (seed, user, seq)."""
    message = f"example\0{seed}\0{pending.user}\0{pending.seq}".encode()
    order = np.argsort(np.frombuffer(hashlib.shake_128(message).digest(8 * n), dtype="<u8"), kind="stable")
    others = order[order != pending.place][:EXAMPLE_NEGATIVES]
    return np.concatenate([[pending.place], others]).astype(np.int64)


def _outcome(
    pending: Pending,
    ranks: dict[str, int],
    not_finite: int,
    window: int,
    history: int,
    bytes_down: int,
    wall: int,
    *,
    expired: bool,
) -> Outcome:
    return Outcome(
        user=pending.user,
        seq=pending.seq,
        epoch=pending.epoch,
        time=pending.time,
        target=pending.target,
        target_index=pending.place,
        candidates=Tensor("<i8", (len(pending.candidates) // 8,), pending.candidates),
        slate=pending.slate,
        cold=pending.cold,
        expired=expired,
        ranks=ranks,
        not_finite=not_finite,
        versions=pending.versions,
        window=window,
        r2_age=pending.r2_age if window else 0,
        history=history,
        bytes_up=pending.bytes_up,
        bytes_down=bytes_down,
        asked_wall=pending.asked_wall,
        answered_wall=wall,
    )
