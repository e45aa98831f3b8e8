"""An experiment as a value: which nets, under which protocols and recipes, and which of them are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deploy.experiments.data.protocol import Protocol
from deploy.experiments.results.result import UploadCosts
from deploy.experiments.training.hyperparameters import Recipes
from deploy.experiments.training.models import Row
from deploy.experiments.training.trainer import Bench
from replay.sources.source import Source


@dataclass(frozen=True)
class Arm:
    """A row of an experiment: a net under a protocol with recipes."""

    model: str  # as it is called in the results
    row: Row
    protocol: Protocol
    recipes: Recipes
    strangers: bool = False  # at test, each user's exposures are another's
    measure: Callable[[Bench], UploadCosts] = lambda _: UploadCosts()


OPTIONS = ("candidates", "positives", "min_count", "exposures")  # of the protocol


@dataclass(frozen=True)
class Asked:
    """What is run: a source, maybe a sample of its users, and how many seeds."""

    source: Source
    protocol: Protocol
    recipes: Recipes = field(default_factory=Recipes)
    users: int | None = None  # that many, by a hash of their names; None: all
    seeds: int = 3
    epochs: int | None = None  # of each fit at most; None: as the recipes say
    usual: Protocol = field(default_factory=Protocol)  # where nothing else is asked for

    @property
    def data(self) -> str:
        """The source's name in file names, with the sample's size: `ml-1m`, `ml-1m-500`."""
        return self.source.name if self.users is None else f"{self.source.name}-{self.users}"

    @property
    def options(self) -> dict[str, str]:
        """The options of the command that differ from what is usual."""
        values = {name: getattr(self.protocol, name) for name in OPTIONS}
        found = {name: str(value) for name, value in values.items() if value != getattr(self.usual, name)}
        return found if self.epochs is None else found | {"epochs": str(self.epochs)}

    @property
    def name(self) -> str:
        """What results are called: the data and all options, so that no result takes another's place."""
        return "-".join([self.data, *(f"{name.replace('_', '-')}-{value}" for name, value in self.options.items())])


@dataclass(frozen=True)
class Experiment:
    """Arms, given what is asked for; and pairs (a, b) of models whose difference is tested.

    Pairs must have the same test clicks: protocols that differ in positives, exposures or counts give others.
    """

    name: str
    title: str
    arms: Callable[[Asked], list[Arm]]
    pairs: tuple[tuple[str, str], ...] = ()
    protocol: Protocol = field(default_factory=Protocol)  # where nothing else is asked for
    recipes: Recipes = field(default_factory=Recipes)
    sliced: bool = False  # results by how often the slow phase has the item, too
    look: Callable[[Asked, Callable[[Protocol], Bench]], list[str]] | None = None  # lines of Markdown for the page


def plain(*rows: Row) -> Callable[[Asked], list[Arm]]:
    """Arms of the protocol and the recipes that are asked for."""
    return lambda asked: [Arm(row.name, row, asked.protocol, asked.recipes) for row in rows]


def with_product(name: str) -> str:
    """What a row or a net of that name is called where an inner product stands beside the heads."""
    return f"{name}, product"
