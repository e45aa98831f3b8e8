"""How nets are built and fitted: what tuning chooses, and the choice for each net of the tables."""

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
class Recipe:
    """How a net is built and fitted."""

    dim: int = 32
    dropout: float = 0.2  # where a net has it
    learning_rate: float = 3e-3
    l2: float = 0.0
    batch: int = 256  # clicks, or sequences
    negatives: int = 16  # a click, or a batch of sequences
    power: float = 0.0  # negatives in proportion to (1 + clicks) ** power
    loss: Callable[..., Tensor] = sampled_softmax  # of `models.training.losses`
    corrected: bool = True  # the softmax is, for how negatives are drawn: it then estimates one over all items
    ahead: bool = True  # the item table starts as item2vec has it: chosen on validation clicks for each net
    block: int = 10  # a click's delayed history ends up to block - 1 clicks before it
    epochs: int = 25
    patience: int = 3
    product: bool = False  # beside the perceptron that a net of a release ends in: beyond the paper
    history_layers: int = 0  # of HSTU in the slow part of a release's nets: beyond the paper
    min_gru: bool = False  # minGRUs in the place of their GRUs: beyond the paper
    symlog_priors: bool = False  # of S2F: the device takes their symlog; beyond the paper
    bf16: bool = False  # forward and backward under autocast: docs/experiments.md says where that helps

    def settings(self) -> Settings:
        """The recipe as JSON: the loss by its name, and what is beyond the paper only where it is used."""
        values = asdict(self) | {"loss": called(self.loss)}
        return {name: value for name, value in values.items() if name not in _BEYOND or value}


class Changes(TypedDict, total=False):
    """Hyperparameters to replace: any fields of `Recipe`."""

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


def called(loss: Callable[..., Tensor]) -> str:
    """The name of a loss, with what is bound to it: `gbce(calibration=0.9)`."""
    if isinstance(loss, partial):
        bound = ", ".join(f"{name}={value}" for name, value in loss.keywords.items())
        return f"{loss.func.__name__}({bound})"
    return loss.__name__


NEXT = Recipe(batch=64, negatives=128, block=1)  # of sequences: each place learns the click that follows
POPULAR = replace(NEXT, power=0.5)  # negatives are rather popular items
AHEAD = replace(POPULAR, ahead=False)  # of item2vec
# of what is told something, and starts from what it was alone
TOLD = Recipe(learning_rate=1e-3, l2=1e-4, negatives=8, ahead=False)
WITH_PRODUCT: dict[str, Changes] = {
    "din": {"learning_rate": 3e-3, "power": 0.5},
    "f2s": {"learning_rate": 3e-3, "power": 0.5},
    "fast": {"learning_rate": 3e-3, "l2": 1e-4, "power": 0.5},
    "s2f": {},
}
_TOLD_QUICKLY = replace(TOLD, learning_rate=3e-3)
_TOLD_POPULAR = replace(TOLD, l2=0.0, power=0.5)
_OFTEN_DROPPED = replace(POPULAR, dropout=0.4)
_SLOWLY = replace(_OFTEN_DROPPED, learning_rate=1e-3)


@dataclass(frozen=True)
class Recipes:
    """A recipe for each net: rate, dropout, l2 and power are the best of eight on validation clicks of ML-100K.

    They are those that `mc2sf experiment tune` tried; sizes, batches and negatives were chosen by hand before.
    """

    item2vec: Recipe = AHEAD
    din: Recipe = Recipe(power=0.5)
    sasrec: Recipe = _OFTEN_DROPPED
    caser: Recipe = _SLOWLY
    hstu: Recipe = NEXT
    f2s: Recipe = Recipe(learning_rate=1e-3)
    fm: Recipe = Recipe(ahead=False, l2=1e-4, power=0.5)
    neumf: Recipe = Recipe(learning_rate=1e-3, l2=1e-4, power=0.5)
    gru4rec: Recipe = POPULAR
    mingru: Recipe = POPULAR
    fast: Recipe = Recipe(learning_rate=1e-3)
    s2f: Recipe = TOLD
    # vanilla slow + fast: the fast net once it is told DIN's score
    din_fm: Recipe = TOLD
    din_neumf: Recipe = _TOLD_QUICKLY
    din_gru4rec: Recipe = _TOLD_POPULAR
    # a device's stretch
    federated: Recipe = Recipe(learning_rate=1e-3, power=0.5, batch=1, negatives=64, ahead=False, block=1, epochs=40)
    patch: Recipe = Recipe(l2=1e-4, power=0.5, ahead=False, epochs=40)

    def settings(self) -> dict[str, Settings]:
        """All recipes as JSON."""
        return {f.name: getattr(self, f.name).settings() for f in fields(self)}

    def of(self, net: str) -> Recipe:
        """The recipe of one net."""
        recipe: Recipe = getattr(self, net)
        return recipe

    def varied(self, nets: Iterable[str], **values: Unpack[Changes]) -> Recipes:
        """The same with other values for some nets."""
        return replace(self, **{net: replace(self.of(net), **values) for net in nets})

    def with_product(self, nets: Iterable[str] = tuple(WITH_PRODUCT)) -> Recipes:
        """The same where some nets of a release have an inner product beside their heads."""
        return replace(self, **{net: replace(replace(self.of(net), product=True), **WITH_PRODUCT[net]) for net in nets})

    def as_published(self) -> Recipes:
        """What the paper states of its training (its section 5.1): the same for all nets, and no table taught ahead.

        It does not say how many negatives there are, nor how they are drawn.
        """
        values: Changes = {"loss": bce, "learning_rate": 5e-4, "l2": 1e-4, "power": 0.0, "ahead": False, "epochs": 100}
        return self.varied((f.name for f in fields(self)), **values)

    def capped(self, epochs: int) -> Recipes:
        """The same with fits of `epochs` epochs at most."""
        nets = [f.name for f in fields(self)]
        return replace(self, **{net: replace(self.of(net), epochs=min(self.of(net).epochs, epochs)) for net in nets})
