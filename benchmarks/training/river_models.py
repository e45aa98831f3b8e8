"""river's recommenders, each prequentially over the stream on which a run's nets were evaluated.

A model ranks and learns at an outcome as the variant `river` does: the same candidates, then the click as 1 and the
first other items as 0. Factors, rate and deviation of the initial vectors are that variant's too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from river import facto, optim, reco
from river.optim import initializers

from models.data.interaction_log import Ints
from models.evaluation.metrics import Rank, rank
from streams.prequential.river_baseline import FACTORS, NEGATIVES, RATE, SIGMA, RiverBaseline


class Asked(NamedTuple):
    """A click to rank."""

    user: str
    candidates: Ints
    place: int
    last: int  # the item that the user clicked before; 0: none


class Peer(Protocol):
    """A model that predicts, is scored, and learns."""

    def rank(self, asked: Asked) -> Rank:
        """Return the rank of the click."""

    def learn(self, asked: Asked) -> None:
        """Learn the click as 1 and the first other items as 0."""


class Served:
    """The variant `river` itself."""

    def __init__(self, seed: int) -> None:
        self._own = RiverBaseline(seed)

    def rank(self, asked: Asked) -> Rank:
        """See `Peer`."""
        return self._own.rank(*asked[:3])

    def learn(self, asked: Asked) -> None:
        """See `Peer`."""
        self._own.learn(*asked[:3])


class Model:
    """A model of river's; `told` is what it is told of a candidate."""

    def __init__(self, model: Any, told: Callable[[Asked, int], tuple[Any, ...]]) -> None:
        self._predict, self._teach, self._told = model.predict_one, model.learn_one, told

    def rank(self, asked: Asked) -> Rank:
        """See `Peer`."""
        return rank([self._predict(*self._told(asked, item)) for item in asked.candidates.tolist()], asked.place)

    def learn(self, asked: Asked) -> None:
        """See `Peer`."""
        items = asked.candidates.tolist()
        self._teach(*self._told(asked, items.pop(asked.place)), 1.0)
        for item in items[:NEGATIVES]:
            self._teach(*self._told(asked, item), 0.0)


def _pair(asked: Asked, item: int) -> tuple[str, int]:
    return asked.user, item


def _features(asked: Asked, item: int) -> tuple[dict[str, str]]:
    return ({"user": asked.user, "item": str(item)},)


def _with_last(asked: Asked, item: int) -> tuple[dict[str, str]]:
    return ({"user": asked.user, "item": str(item), "last": str(asked.last)},)


def models(seed: int) -> dict[str, Peer]:
    """Return all compared models by name."""
    sgd, latent = optim.SGD(RATE), initializers.Normal(mu=0.0, sigma=SIGMA, seed=seed)

    def facto_of(kind: Callable[..., Any]) -> Any:
        return kind(n_factors=FACTORS, weight_optimizer=sgd, latent_optimizer=sgd, latent_initializer=latent, seed=seed)

    funk = reco.FunkMF(n_factors=FACTORS, optimizer=sgd, initializer=latent, seed=seed)
    return {
        "BiasedMF": Served(seed),
        "Baseline": Model(reco.Baseline(optimizer=sgd), _pair),
        "FunkMF": Model(funk, _pair),
        "FM": Model(facto_of(facto.FMRegressor), _features),
        "FM, last click": Model(facto_of(facto.FMRegressor), _with_last),
        "FFM, last click": Model(facto_of(facto.FFMRegressor), _with_last),
    }
