"""An experiment as a value: models, their protocols and hyperparameters, and the pairs that are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deploy.experiments.data.protocol import Protocol
from deploy.experiments.results.result import UploadCosts
from deploy.experiments.training.hyperparameters import HyperparameterSet
from deploy.experiments.training.models import Model
from deploy.experiments.training.trainer import Trainer
from replay.sources.source import Source
from streams.plugins.plugin import Plugin


@dataclass(frozen=True)
class Arm:
    """An arm of an experiment: a model under a protocol with hyperparameters."""

    name: str  # name of the model in results; part of the hashed names of its cells
    model: Model
    protocol: Protocol
    hyperparameters: HyperparameterSet
    shuffled_users: bool = False  # test clicks are ranked with the exposures of another user
    measure: Callable[[Trainer], UploadCosts] = lambda _: UploadCosts()


OPTIONS = ("candidates", "positives", "min_count", "exposures")  # of the protocol


@dataclass(frozen=True)
class Request:
    """A request to run an experiment: the source, an optional sample of its users, and the number of seeds."""

    source: Source
    protocol: Protocol
    hyperparameters: HyperparameterSet = field(default_factory=HyperparameterSet)
    users: int | None = None  # size of a sample by a hash of their ids; None: all
    seeds: int = 3
    epochs: int | None = None  # of each fit at most; None: as in the hyperparameters
    usual: Protocol = field(default_factory=Protocol)  # without options
    plugins: tuple[Plugin, ...] = ()  # of all kinds

    @property
    def data(self) -> str:
        """The source's name in file names, with the sample's size: `ml-1m`, `ml-1m-500`."""
        return self.source.name if self.users is None else f"{self.source.name}-{self.users}"

    @property
    def options(self) -> dict[str, str]:
        """The options of the command that differ from the usual protocol."""
        values = {name: getattr(self.protocol, name) for name in OPTIONS}
        found = {name: str(value) for name, value in values.items() if value != getattr(self.usual, name)}
        return found if self.epochs is None else found | {"epochs": str(self.epochs)}

    @property
    def name(self) -> str:
        """The name of results: the data and all options, so that no result replaces another."""
        options = (f"{name.replace('_', '-')}-{value.replace(':', '-')}" for name, value in self.options.items())
        more = (plugin.name for plugin in self.plugins if plugin.kind in {"metric", "variant"})
        return "-".join([self.data, *options, *more])


CaseStudy = Callable[[Request, Callable[[Protocol], Trainer]], list[str]]  # lines of Markdown for the page


@dataclass(frozen=True)
class Experiment:
    """The arms for a request, and the pairs (a, b) of arms whose difference is tested.

    Pairs must have the same test clicks: protocols that differ in positives, exposures or counts give others.
    """

    name: str
    title: str
    arms: Callable[[Request], list[Arm]]
    pairs: tuple[tuple[str, str], ...] = ()
    protocol: Protocol = field(default_factory=Protocol)  # without options
    hyperparameters: HyperparameterSet = field(default_factory=HyperparameterSet)
    sliced: bool = False  # with results by the number of clicks on the item in the slow phase
    case_study: CaseStudy | None = None


def arms_of(*models: Model) -> Callable[[Request], list[Arm]]:
    """Return arms with the protocol and the hyperparameters of the request."""
    return lambda request: [Arm(model.name, model, request.protocol, request.hyperparameters) for model in models]


def with_product(name: str) -> str:
    """Return the name of a model or net with an inner product added to its heads."""
    return f"{name}, product"
