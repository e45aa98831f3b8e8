"""An experiment as a value: which nets, under which protocols and recipes, and which of them are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.experiments.bench import Bench
from deploy.experiments.protocol import Protocol
from deploy.experiments.recipe import Recipes
from deploy.experiments.rows import Row


@dataclass(frozen=True)
class Arm:
    """A row of an experiment: a net under a protocol with recipes."""

    model: str  # as it is called in the results
    row: Row
    protocol: Protocol
    recipes: Recipes
    strangers: bool = False  # at test, each user's exposures are another's
    measure: Callable[[Bench], dict[str, Any]] = lambda _: {}  # what else is recorded


@dataclass(frozen=True)
class Experiment:
    """Arms, given a protocol and recipes; and pairs (a, b) of models whose difference is tested.

    Pairs must have the same test clicks: protocols that differ in positives, exposures or counts give others.
    """

    name: str
    title: str
    arms: Callable[[Protocol, Recipes], list[Arm]]
    pairs: tuple[tuple[str, str], ...] = ()


def plain(*rows: Row) -> Callable[[Protocol, Recipes], list[Arm]]:
    """Arms of one protocol and one set of recipes."""
    return lambda protocol, recipes: [Arm(row.name, row, protocol, recipes) for row in rows]
