"""An experiment's users as a stream: `protocol:SOURCE` is their slow phases, one boundary, then fast and test phases.

So the cloud's delayed history is the slow phase, and the device knows every click before the target, as offline. What
was not ranked offline travels as past clicks. The list of a test click stands in one impression with it, as
candidates in the list's own order. Event times are kept, but all that follows a slow phase comes later by the log's
span, so that no user's fast phase begins before another's slow phase is over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.experiments.data import candidate_lists
from deploy.experiments.data.candidate_lists import Lists
from deploy.experiments.data.dataset import Dataset, load
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.definitions.experiment import Asked
from deploy.experiments.training.hyperparameters import Recipes
from models.data.catalogue import FIRST_ROW, ROW_PADDING
from models.data.event_kinds import CANDIDATE, EXPOSURE
from models.data.interaction_log import group_starts
from replay.errors import SourceError
from replay.parameters import parameters
from replay.sources.schema import Row, batches
from replay.sources.source import Source, parse
from streams.records import Kind

_FORM = re.compile(r"protocol:((?:\w+=[^,]*,)*)(.+)")


@dataclass(frozen=True)
class Choice:
    """Which of an experiment's fits: the options with which `mc2sf experiment` was run, and a seed of its seeds."""

    users: int = 0  # 0: all
    epochs: int = 0  # 0: as the recipes say
    seed: int = 1
    work: Path = Path("runs/experiments")


@dataclass(frozen=True)
class Streamed:
    """What `protocol:SOURCE` asks for."""

    choice: Choice
    asked: Asked

    @classmethod
    def of(cls, text: str) -> Streamed:
        """Read `protocol:[name=value,...,]SOURCE`. Raises SourceError."""
        found = _FORM.fullmatch(text)
        if not found:
            raise SourceError(f"{text!r} names no source: write protocol:SOURCE, for example protocol:ml-100k:DIR")
        choice = parameters(Choice, found[1])
        if choice.users < 0 or choice.epochs < 0 or choice.seed < 1:
            raise SourceError(f"{text!r}: users and epochs must not be negative, seed must be at least 1")
        recipes = Recipes().capped(choice.epochs) if choice.epochs else Recipes()
        asked = Asked(parse(found[2]), Protocol(), recipes, choice.users or None, choice.seed, choice.epochs or None)
        return cls(choice, asked)

    @property
    def folder(self) -> Path:
        """Where the experiment keeps its sorted log."""
        return self.choice.work / self.asked.data


def source(text: str) -> Source:
    """The source that `text` names. Raises SourceError."""
    streamed = Streamed.of(text)
    dataset = load(streamed.asked.source, streamed.asked.protocol, streamed.folder, streamed.asked.users)
    of_test = candidate_lists.lists(dataset, dataset.of(Phase.TEST), streamed.asked.protocol)
    alone(dataset, of_test)
    last = int(dataset.log.times.max())
    files = streamed.asked.source.files
    return Source(
        text, ("logged",), files, lambda _policy, _refusals: batches(_rows(dataset, of_test)), f"{last + 1}ms"
    )


def alone(dataset: Dataset, of_test: Lists) -> None:
    """Raise SourceError where the impression of a test click has another click: it can hold one list only."""
    starts, clicked = group_starts(dataset.log), dataset.phase >= Phase.SLOW
    clicks = np.bincount(starts[clicked], minlength=len(starts))
    if shared := int((clicks[starts[of_test.clicks]] > 1).sum()):
        raise SourceError(
            f"{dataset.source}: {shared:,} test clicks stand in an impression with another click, and have a list of "
            "their own offline; in the stream an impression has one list"
        )


def _rows(dataset: Dataset, of_test: Lists) -> Iterator[Row]:
    """All events, user by user, in order; those of a unit bear the time of its first.

    What was shown with a test click comes behind its list, so that it is no part of it: nobody asks in between.
    """
    log, items = dataset.log, dataset.items
    starts, span = group_starts(log), int(np.ptp(log.times)) + 1
    fast = np.flatnonzero(dataset.phase > Phase.SLOW)
    late = starts[
        fast[np.unique(log.users[fast], return_index=True)[1]]
    ].tolist()  # where each user's slow phase is over
    tested = set(of_test.clicks.tolist())
    list_at = {start: k for k, start in enumerate(starts[of_test.clicks].tolist())}
    for user, name in enumerate(dataset.users):
        time = 0
        for i in range(int(log.offsets[user]), int(log.offsets[user + 1])):
            start = int(starts[i])
            time = max(time, int(log.times[start]) + (span if start >= late[user] else 0))
            if (k := list_at.get(i)) is not None:
                listed = of_test.items[k][of_test.items[k] != ROW_PADDING]
                for place, row in enumerate(listed.tolist()):
                    kind = Kind.CLICK if place == of_test.places[k] else Kind.CANDIDATE
                    yield name, items[row - FIRST_ROW], time, kind, k + 1
            if i not in tested and log.kinds[i] != CANDIDATE:
                kind = Kind.EXPOSURE if log.kinds[i] == EXPOSURE else Kind.PAST_CLICK
                yield name, items[int(log.keys[i]) - FIRST_ROW], time, kind, 0
