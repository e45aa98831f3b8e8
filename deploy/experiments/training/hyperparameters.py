"""The hyperparameters of each net: size, loss, sampling and optimiser, as tuning chose them.

Names and values of the fields and the names of the nets are hashed into the names of stored fits and cells: renaming
one orphans all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TypedDict, Unpack

from torch import Tensor

from deploy.experiments.results.result import Settings
from models.training.losses import bce, sampled_softmax

_BEYOND = ("product", "history_layers", "min_gru", "symlog_priors", "bf16")


@dataclass(frozen=True)
class Hyperparameters:
    """The size of a net, and how it is trained."""

    dim: int = 32
    dropout: float = 0.2  # of nets that have it
    learning_rate: float = 3e-3
    l2: float = 0.0
    batch: int = 256  # clicks, or sequences
    negatives: int = 16  # per click, or per batch of sequences
    power: float = 0.0  # negatives in proportion to (1 + clicks) ** power
    loss: Callable[..., Tensor] = sampled_softmax  # of `models.training.losses`
    corrected: bool = True  # the softmax is corrected for the sampling: it estimates the one over all items
    ahead: bool = True  # the item table is initialised from item2vec: chosen on validation clicks for each net
    block: int = 10  # a click's delayed history ends up to block - 1 clicks before it
    epochs: int = 25
    patience: int = 3
    product: bool = False  # an inner product added to the heads of a release's nets: beyond the paper
    history_layers: int = 0  # of HSTU in the slow part of a release's nets: beyond the paper
    min_gru: bool = False  # minGRUs instead of their GRUs: beyond the paper
    symlog_priors: bool = False  # of S2F: the device takes the symlog of the priors; beyond the paper
    bf16: bool = False  # forward and backward under autocast; see docs/experiments.md

    def settings(self) -> Settings:
        """Return the fields as JSON: the loss by its name; fields beyond the paper only if they are used."""
        values = asdict(self) | {"loss": loss_name(self.loss)}
        return {name: value for name, value in values.items() if name not in _BEYOND or value}


class Changes(TypedDict, total=False):
    """Hyperparameters to replace: any fields of `Hyperparameters`."""

    dim: int
    dropout: float
    learning_rate: float
    l2: float
    batch: int
    negatives: int
    power: float
    loss: Callable[..., Tensor]
    corrected: bool
    ahead: bool
    block: int
    epochs: int
    patience: int
    product: bool
    history_layers: int
    min_gru: bool
    symlog_priors: bool
    bf16: bool


def loss_name(loss: Callable[..., Tensor]) -> str:
    """Return the name of a loss with its bound arguments: `gbce(calibration=0.9)`."""
    if isinstance(loss, partial):
        bound = ", ".join(f"{name}={value}" for name, value in loss.keywords.items())
        return f"{loss.func.__name__}({bound})"
    return loss.__name__


SEQUENCES = Hyperparameters(batch=64, negatives=128, block=1)  # the target of a position is the next click
POPULAR_SEQUENCES = replace(SEQUENCES, power=0.5)  # popular items are drawn more often as negatives
ITEM2VEC = replace(POPULAR_SEQUENCES, ahead=False)  # of item2vec
# of the second fit, with the slow net's scores as input, that starts from a net trained without them
SECOND_FIT = Hyperparameters(learning_rate=1e-3, l2=1e-4, negatives=8, ahead=False)
WITH_PRODUCT: dict[str, Changes] = {
    "din": {"learning_rate": 3e-3, "power": 0.5},
    "f2s": {"learning_rate": 3e-3, "power": 0.5},
    "fast": {"learning_rate": 3e-3, "l2": 1e-4, "power": 0.5},
    "s2f": {},
}
_SECOND_FIT_FAST = replace(SECOND_FIT, learning_rate=3e-3)
_SECOND_FIT_POPULAR = replace(SECOND_FIT, l2=0.0, power=0.5)
_OFTEN_DROPPED = replace(POPULAR_SEQUENCES, dropout=0.4)
_SLOWLY = replace(_OFTEN_DROPPED, learning_rate=1e-3)


@dataclass(frozen=True)
class HyperparameterSet:
    """The hyperparameters of each net.

    Rate, dropout, l2 and power are the best of eight settings that `mc2sf experiment tune` tried, on validation clicks
    of ML-100K; sizes, batches and negatives were chosen by hand before.
    """

    item2vec: Hyperparameters = ITEM2VEC
    din: Hyperparameters = Hyperparameters(power=0.5)
    sasrec: Hyperparameters = _OFTEN_DROPPED
    caser: Hyperparameters = _SLOWLY
    hstu: Hyperparameters = SEQUENCES
    f2s: Hyperparameters = Hyperparameters(learning_rate=1e-3)
    fm: Hyperparameters = Hyperparameters(ahead=False, l2=1e-4, power=0.5)
    neumf: Hyperparameters = Hyperparameters(learning_rate=1e-3, l2=1e-4, power=0.5)
    gru4rec: Hyperparameters = POPULAR_SEQUENCES
    mingru: Hyperparameters = POPULAR_SEQUENCES
    fast: Hyperparameters = Hyperparameters(learning_rate=1e-3)
    s2f: Hyperparameters = SECOND_FIT
    # two-stage: the second fit of the fast net, with DIN's score as input
    din_fm: Hyperparameters = SECOND_FIT
    din_neumf: Hyperparameters = _SECOND_FIT_FAST
    din_gru4rec: Hyperparameters = _SECOND_FIT_POPULAR
    # FedAvg and DCCL: a batch is one device's sequence
    federated: Hyperparameters = Hyperparameters(
        learning_rate=1e-3, power=0.5, batch=1, negatives=64, ahead=False, block=1, epochs=40
    )
    patch: Hyperparameters = Hyperparameters(l2=1e-4, power=0.5, ahead=False, epochs=40)

    def settings(self) -> dict[str, Settings]:
        """Return the hyperparameters of all nets as JSON."""
        return {f.name: getattr(self, f.name).settings() for f in fields(self)}

    def of(self, net: str) -> Hyperparameters:
        """Return the hyperparameters of one net."""
        params: Hyperparameters = getattr(self, net)
        return params

    def varied(self, nets: Iterable[str], **values: Unpack[Changes]) -> HyperparameterSet:
        """Return a copy with other values for some nets."""
        return replace(self, **{net: replace(self.of(net), **values) for net in nets})

    def with_product(self, nets: Iterable[str] = tuple(WITH_PRODUCT)) -> HyperparameterSet:
        """Return a copy in which some nets of a release have an inner product added to their heads."""
        return replace(self, **{net: replace(replace(self.of(net), product=True), **WITH_PRODUCT[net]) for net in nets})

    def as_published(self) -> HyperparameterSet:
        """Return the training that the paper describes (its section 5.1): the same for all nets, without item2vec.

        The paper gives neither the number of negatives nor their distribution.
        """
        values: Changes = {"loss": bce, "learning_rate": 5e-4, "l2": 1e-4, "power": 0.0, "ahead": False, "epochs": 100}
        return self.varied((f.name for f in fields(self)), **values)

    def capped(self, epochs: int) -> HyperparameterSet:
        """Return a copy in which no fit has more than `epochs` epochs."""
        nets = [f.name for f in fields(self)]
        return replace(self, **{net: replace(self.of(net), epochs=min(self.of(net).epochs, epochs)) for net in nets})
