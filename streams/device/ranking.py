"""Ranking of an answered request: scores of the fast nets, the outcome, and the training example."""

from __future__ import annotations

import hashlib

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from models.data.catalogue import Catalogue
from models.evaluation.metrics import rank
from models.mc2sf.tiled_scorer import FastAnswer, FastQuery, Scorer
from streams.codec import RecordError, Tensor
from streams.plugins.loaded import Plugins
from streams.plugins.protocols import Seen
from streams.records import EXAMPLE_NEGATIVES, FastExample, Outcome, SlowPriors
from streams.releases.item_statistics import buckets_array
from streams.releases.release import Release
from streams.settings import Settings
from streams.state.device import PendingRequest, keys_array


def answers_request(priors: SlowPriors, request: PendingRequest) -> bool:
    """Return True if the priors answer this request, not an earlier one for the same click.

    The cloud answers with the release and the item statistics that a request names. If a worker died before it wrote
    the request's row, the click makes a second request when its event is delivered again, perhaps with newer ones. Then
    two answers come, and only one was made from the candidates, the nets and the statistics that the outcome will name.
    """
    same_statistics = priors.statistics_epoch in (None, request.statistics_epoch)
    return priors.versions == request.versions and same_statistics


def check_priors(priors: SlowPriors, request: PendingRequest, settings: Settings) -> None:
    """Raise RecordError if the priors do not fit the request."""
    if not 0 <= priors.history <= settings.history_long:
        raise RecordError(f"a history of {priors.history} clicks: the cloud keeps {settings.history_long}")
    if priors.window not in (0, request.window):
        raise RecordError(f"r2 of window {priors.window}, not of {request.window}")
    n, dim = len(keys_array(request.candidates)), settings.dim
    for name, tensor in (("r_t", priors.r_t), ("r_n", priors.r_n)):
        tensor.expect(name, "<f2", (n, dim))
    for name, tensor in (("din", priors.din), ("f2s", priors.f2s)):
        tensor.expect(name, "<f4", (n,))


def fast_query(request: PendingRequest, priors: SlowPriors, release: Release) -> FastQuery:
    """Return the query of the fast nets for an answered request."""
    clicks, exposures, candidates = _rows(request, release.catalogue)
    statistics = buckets_array(request.item_statistics, len(candidates))
    near = release.near(keys_array(request.clicks), keys_array(request.candidates))
    received = priors.r_t.array(), priors.r_n.array(), statistics, priors.f2s.array()
    return FastQuery(clicks, exposures, candidates, *received, near)


def rank_with_priors(
    request: PendingRequest, priors: SlowPriors, scores: FastAnswer, bytes_down: int, wall: int
) -> Outcome:
    """Return the outcome of an answered request: the ranks by the slow nets and by the `scores` of the fast ones."""
    ranks, not_finite = {"random": request.target_index + 1}, 0
    for name, values in (
        ("din", priors.din.array()),
        ("f2s", priors.f2s.array()),
        ("fast", scores.fast),
        ("mc2sf", scores.mc2sf),
    ):
        ranks[name], bad = rank(values, request.target_index)
        not_finite += bad
    return _outcome(request, ranks, not_finite, priors.window, priors.history, bytes_down, wall, expired=False)


def rank_without_priors(request: PendingRequest, scorer: Scorer, catalogue: Catalogue, wall: int) -> Outcome:
    """Return the outcome of a request that got no answer in time: the rank by the fast net alone."""
    clicks, exposures, candidates = _rows(request, catalogue)
    zero = np.zeros((len(candidates), scorer.config.dim), np.float16)
    statistics = buckets_array(request.item_statistics, len(candidates))
    scores = scorer.fast(clicks, exposures, candidates, zero, zero, statistics)
    fast, not_finite = rank(scores.fast, request.target_index)
    ranks = {"random": request.target_index + 1, "fast": fast}
    return _outcome(request, ranks, not_finite, request.window, 0, 0, wall, expired=True)


def rank_with_plugins(outcome: Outcome, request: PendingRequest, plugins: Plugins, release: Release) -> Outcome:
    """Return the outcome with the ranks by the variants that are plugins, which need no priors."""
    if not plugins.variants:
        return outcome
    keys = keys_array(request.candidates)
    seen = Seen(
        clicks=keys_array(request.clicks),
        exposures=keys_array(request.exposures),
        candidates=keys,
        item_statistics=buckets_array(request.item_statistics, len(keys)),
        vectors=release.vectors,
    )
    found = plugins.ranks(seen, request.target_index)
    ranks = outcome.ranks | {name: each.rank for name, each in found.items()}
    not_finite = outcome.not_finite + sum(each.not_finite for each in found.values())
    return replace(outcome, ranks=ranks, not_finite=not_finite)


def training_example(request: PendingRequest, priors: SlowPriors, seed: int) -> FastExample | None:
    """Return the example for the online learner, or None if there are too few candidates.

    None also for a cold target among candidates drawn from the catalogue: being unknown would tell it from the others.
    """
    keys = keys_array(request.candidates)
    if (request.cold and request.slate != "logged") or len(keys) <= EXAMPLE_NEGATIVES:
        return None
    drawn = _drawn(seed, request, len(keys))
    return FastExample(
        user=request.user,
        seq=request.seq,
        epoch=request.epoch,
        time=request.time,
        clicks=Tensor.of(keys_array(request.clicks), "<i8"),
        exposures=Tensor.of(keys_array(request.exposures), "<i8"),
        items=Tensor.of(keys[drawn], "<i8"),
        r_t=Tensor.of(priors.r_t.array()[drawn], "<f2"),
        r_n=Tensor.of(priors.r_n.array()[drawn], "<f2"),
        versions=request.versions,
        item_statistics=buckets_array(request.item_statistics, len(keys))[drawn].tobytes(),
        f2s=Tensor.of(priors.f2s.array()[drawn], "<f4"),
    )


def _rows(request: PendingRequest, catalogue: Catalogue) -> list[NDArray[np.int64]]:
    return [catalogue.rows(keys_array(k)) for k in (request.clicks, request.exposures, request.candidates)]


def _drawn(seed: int, request: PendingRequest, n: int) -> NDArray[np.int64]:
    """Return the index of the target, then those of the negatives: the first by a hash of (seed, user, seq)."""
    message = f"example\0{seed}\0{request.user}\0{request.seq}".encode()
    order = np.argsort(np.frombuffer(hashlib.shake_128(message).digest(8 * n), dtype="<u8"), kind="stable")
    negatives = order[order != request.target_index][:EXAMPLE_NEGATIVES]
    return np.concatenate([[request.target_index], negatives]).astype(np.int64)


def _outcome(
    request: PendingRequest,
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
        user=request.user,
        seq=request.seq,
        epoch=request.epoch,
        time=request.time,
        target=request.target,
        target_index=request.target_index,
        candidates=Tensor("<i8", (len(request.candidates) // 8,), request.candidates),
        slate=request.slate,
        cold=request.cold,
        expired=expired,
        ranks=ranks,
        not_finite=not_finite,
        versions=request.versions,
        window=window,
        r2_age=request.r2_age if window else 0,
        history=history,
        bytes_up=request.bytes_up,
        bytes_down=bytes_down,
        asked_wall=request.asked_wall,
        answered_wall=wall,
        statistics_epoch=request.statistics_epoch,
    )
