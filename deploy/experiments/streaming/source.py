"""The source `protocol:SOURCE`: an experiment's users as a stream of all slow phases, then all fast and test phases.

So the cloud's delayed history is the slow phase, and the device knows every click before the target, as offline. Clicks
that are not ranked offline are sent as past clicks. A test click and its list are one impression, with candidates in
the order of the list. Events after a slow phase are shifted by the log's span in time, so that no user's fast phase
begins before another's slow phase ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.experiments.data.candidate_lists import CandidateLists, draw_candidates
from deploy.experiments.data.dataset import Dataset, load
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.definitions.experiment import Request
from deploy.experiments.training.hyperparameters import HyperparameterSet
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
class FitSelection:
    """The choice of an experiment's fits: the options with which `mc2sf experiment` was run, and one of its seeds."""

    users: int = 0  # 0: all
    epochs: int = 0  # 0: as in the hyperparameters
    seed: int = 1
    work: Path = Path("runs/experiments")


@dataclass(frozen=True)
class StreamRequest:
    """The content of `protocol:[name=value,...,]SOURCE`."""

    selection: FitSelection
    request: Request

    @classmethod
    def of(cls, text: str) -> StreamRequest:
        """Read `protocol:[name=value,...,]SOURCE`. Raises SourceError."""
        match = _FORM.fullmatch(text)
        if not match:
            raise SourceError(f"{text!r} names no source: write protocol:SOURCE, for example protocol:ml-100k:DIR")
        selection = parameters(FitSelection, match[1])
        if selection.users < 0 or selection.epochs < 0 or selection.seed < 1:
            raise SourceError(f"{text!r}: users and epochs must not be negative, seed must be at least 1")
        users, epochs = selection.users or None, selection.epochs or None
        hyperparameters = HyperparameterSet() if epochs is None else HyperparameterSet().capped(epochs)
        request = Request(parse(match[2]), Protocol(), hyperparameters, users, selection.seed, epochs)
        return cls(selection, request)

    @property
    def folder(self) -> Path:
        """The folder in which the experiment keeps its sorted log."""
        return self.selection.work / self.request.data


def source(text: str) -> Source:
    """Return the source that `text` names. Raises SourceError."""
    requested = StreamRequest.of(text)
    dataset = load(requested.request.source, requested.request.protocol, requested.folder, requested.request.users)
    lists = draw_candidates(dataset, dataset.clicks(Phase.TEST), requested.request.protocol)
    check_one_list_per_impression(dataset, lists)
    last = int(dataset.log.times.max())
    files = requested.request.source.files
    return Source(text, ("logged",), files, lambda _policy, _errors: batches(_rows(dataset, lists)), f"{last + 1}ms")


def check_one_list_per_impression(dataset: Dataset, lists: CandidateLists) -> None:
    """Raise SourceError if two test clicks share an impression: in the stream an impression has one list."""
    starts, clicked = group_starts(dataset.log), dataset.phase >= Phase.SLOW
    clicks = np.bincount(starts[clicked], minlength=len(starts))
    if shared := int((clicks[starts[lists.clicks]] > 1).sum()):
        raise SourceError(
            f"{dataset.source}: {shared:,} test clicks share their impression with another click, and have a list of "
            "their own offline; in the stream an impression has one list"
        )


def _rows(dataset: Dataset, lists: CandidateLists) -> Iterator[Row]:
    """Yield all events, user by user, in order; all events of an impression group have the time of the first one.

    Exposures shown with a test click come after its list and are no part of it: no ranking is requested in between.
    """
    log, items = dataset.log, dataset.items
    starts, span = group_starts(log), int(np.ptp(log.times)) + 1
    fast = np.flatnonzero(dataset.phase > Phase.SLOW)
    slow_ends = starts[fast[np.unique(log.users[fast], return_index=True)[1]]].tolist()  # of each user
    tested = set(lists.clicks.tolist())
    list_at = {start: k for k, start in enumerate(starts[lists.clicks].tolist())}
    for user, name in enumerate(dataset.users):
        time = 0
        for i in range(int(log.offsets[user]), int(log.offsets[user + 1])):
            start = int(starts[i])
            time = max(time, int(log.times[start]) + (span if start >= slow_ends[user] else 0))
            if (k := list_at.get(i)) is not None:
                candidates = lists.items[k][lists.items[k] != ROW_PADDING]
                for index, row in enumerate(candidates.tolist()):
                    kind = Kind.CLICK if index == lists.target_index[k] else Kind.CANDIDATE
                    yield name, items[row - FIRST_ROW], time, kind, k + 1
            if i not in tested and log.kinds[i] != CANDIDATE:
                kind = Kind.EXPOSURE if log.kinds[i] == EXPOSURE else Kind.PAST_CLICK
                yield name, items[int(log.keys[i]) - FIRST_ROW], time, kind, 0
