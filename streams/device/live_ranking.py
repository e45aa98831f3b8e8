"""Rankings for gateways: by the fast part at once, and by all parts when the cloud has answered.

Nothing is learnt from a request. Rankings that wait for the cloud are in memory only: if the worker ends, the gateway
returns the fast part's answer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from models.data.views import view
from streams.codec import RecordError, Tensor
from streams.device.step import prepare_request
from streams.device.user import Context, DeferredNegativeMemory, User
from streams.records import GatewayRequest, Ranking, RankRequest, SlowPriors, item_key
from streams.releases.item_statistics import buckets_array
from streams.releases.release import Release

Keys = NDArray[np.int64]

MAX_CANDIDATES = 1000
POOL = 200  # items of the catalogue that are ranked, unless `k` is larger
_NONE = np.empty(0, np.int64)


class StartedRanking(NamedTuple):
    """The user under the encoder in force, the records for the cloud in order, and the fast part's ranking."""

    user: User
    uplink: list[DeferredNegativeMemory | RankRequest]
    first: Ranking


def check_request(request: GatewayRequest) -> None:
    """Raise RecordError if a request is invalid."""
    if len(request.candidates) > MAX_CANDIDATES or not 1 <= request.k <= MAX_CANDIDATES:
        raise RecordError(f"{len(request.candidates)} candidates, k = {request.k}: at most {MAX_CANDIDATES}")
    if not request.id or any(not name or "\0" in name for name in request.candidates):
        raise RecordError("the id or the name of a candidate is empty or has a NUL in it")


def start_ranking(
    before: User, request: GatewayRequest, context: Context, release: Release, offset: int, uploaded: int
) -> StartedRanking:
    """Rank by the fast part. `offset` is the request's, `uploaded` the event time of the partition's last upload."""
    made = prepare_request(before, request.user, context)
    state, settings = made.user.state, context.settings
    clicks, exposures = np.array(state.clicks, np.int64), np.array(state.exposures, np.int64)
    seen = view(_NONE, clicks, exposures, state.open_count, state.window, context.spec, closed_count=state.closed_count)
    if request.candidates:
        keys = np.array([item_key(name) for name in request.candidates], np.int64)
    else:
        keys = _from_catalogue(release, seen.clicks, context, max(POOL, request.k))
    statistics, statistics_epoch = context.item_statistics.buckets_of(keys), context.item_statistics.epoch + 1
    rows, n = release.catalogue.rows, len(keys)
    zero = np.zeros((n, settings.dim), np.float16)
    fast = release.scorer.fast(rows(seen.clicks), rows(seen.exposures), rows(keys), zero, zero, statistics).fast
    first = Ranking(
        id=request.id,
        user=request.user,
        degraded=True,
        variant="fast",
        items=Tensor.of(keys, "<i8"),
        names=request.candidates,
        k=request.k,
        scores={
            "fast": Tensor.of(fast, "<f4"),
            "popularity": Tensor.of(context.item_statistics.clicks_of(keys), "<f4"),
        },
        clicks=Tensor.of(seen.clicks, "<i8"),
        exposures=Tensor.of(seen.exposures, "<i8"),
        history=Tensor.of(_NONE, "<i8"),
        window=state.window,
        r2=b"",
        item_statistics=statistics.tobytes(),
        statistics_epoch=statistics_epoch,
        versions=context.versions,
        epoch=context.epoch,
        seq=state.seq,
        offset=offset,
        time=state.time,
        closed=state.closed if state.window else 0,
        uploaded=uploaded,
        not_uploaded=len(state.not_uploaded(context.ended)),
        asked_wall=request.asked_wall,
        answered_wall=context.asked_wall,
    )
    if n:
        to_cloud = RankRequest(
            user=request.user,
            seq=state.seq,
            candidates=first.items,
            time=state.time,
            window=state.window,
            versions=context.versions,
            epoch=context.epoch,
            item_statistics=first.item_statistics,
            statistics_epoch=statistics_epoch,
            ranking=request.id,
        )
        made.uplink.append(to_cloud)
    return StartedRanking(made.user, made.uplink, first)


def complete_ranking(first: Ranking, variant: str, priors: SlowPriors, release: Release, wall: int) -> Ranking:
    """Return the complete ranking, by `variant` or else by mc2sf. Raises RecordError if the priors do not fit."""
    n, dim = first.items.shape[0], release.scorer.config.dim
    rows = release.catalogue.rows
    scores = release.scorer.fast(
        rows(first.clicks.array()),
        rows(first.exposures.array()),
        rows(first.items.array()),
        priors.r_t.expect("r_t", "<f2", (n, dim)),
        priors.r_n.expect("r_n", "<f2", (n, dim)),
        buckets_array(first.item_statistics, n),
        priors.f2s.expect("f2s", "<f4", (n,)),
        release.near(first.clicks.array(), first.items.array()),
    )
    by_variant = first.scores | {
        "din": Tensor.of(priors.din.expect("din", "<f4", (n,)), "<f4"),
        "f2s": priors.f2s,
        "fast": Tensor.of(scores.fast, "<f4"),
        "mc2sf": Tensor.of(scores.mc2sf, "<f4"),
    }
    return replace(
        first,
        degraded=False,
        variant=variant if variant in by_variant else "mc2sf",
        scores=by_variant,
        history=priors.history_items or first.history,
        window=priors.window,
        r2=priors.r2,
        answered_wall=wall,
    )


def _from_catalogue(release: Release, clicks: Keys, context: Context, maximum: int) -> Keys:
    """Return up to `maximum` items of the catalogue without the last clicks: their neighbours, then popular items."""
    keys = release.catalogue.keys
    if not len(keys):
        return _NONE
    clicked = context.item_statistics.clicks_of(keys)
    near = np.zeros(len(keys))
    if release.nets.config.stacked:
        near = release.nets.fast.neighbours.affinity(*release.near(clicks, keys)).sum(0)
    order = np.lexsort((-clicked, -near))
    return keys[order[~np.isin(keys[order], clicks)][:maximum]]
