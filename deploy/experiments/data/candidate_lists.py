"""Candidate lists: each evaluated click among items that its user never interacted with; and ranks in such lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deploy.experiments.data.dataset import Dataset
from deploy.experiments.data.protocol import Phase, Protocol
from models.data.catalogue import FIRST_ROW, ROW_PADDING
from models.data.event_kinds import CLICK
from models.data.interaction_log import Ints, group_starts
from models.data.queries import Queries
from models.evaluation.metrics import rank
from replay.errors import SourceError
from streams.plugins.loaded import Plugins, loaded
from streams.plugins.plugin import is_name, named


@dataclass(frozen=True)
class CandidateLists:
    """V clicks, each with its list and the index of the clicked item in it."""

    clicks: Ints  # [V] indices of events in the log
    target_index: Ints  # [V]
    items: Ints  # [V, C] rows of E; shorter lists are padded at the end with ROW_PADDING

    def __len__(self) -> int:
        return len(self.clicks)


def draw_candidates(dataset: Dataset, clicks: Ints, protocol: Protocol) -> CandidateLists:
    """Draw the lists of `clicks`. A user's lists depend only on the protocol's seed, the user's id and the catalogue.

    Raises SourceError if a user interacted with every item.
    """
    log, size = dataset.log, len(dataset.items)
    excluded = np.zeros(size, np.bool_)
    weights = np.log1p(np.bincount(log.keys[dataset.clicks(Phase.SLOW)] - FIRST_ROW, minlength=size))
    length = size + 1 if protocol.candidates == "full" else protocol.negatives + 1
    items = np.full((len(clicks), length), ROW_PADDING)
    target_index = np.empty(len(clicks), np.int64)
    users = log.users[clicks]
    rule = loaded(named("candidates", protocol.candidates).setting) if is_name(protocol.candidates) else None
    starts = group_starts(log) if rule else clicks
    for user in np.unique(users):
        generator = _generator(protocol.seed, dataset.users[user])
        events = slice(log.offsets[user], log.offsets[user + 1])
        interacted = log.keys[events][dataset.interacted[events]] - FIRST_ROW
        excluded[interacted] = True
        free = np.flatnonzero(~excluded)
        excluded[interacted] = False
        if not len(free) and rule is None:
            raise SourceError(
                f"{dataset.source}: user {dataset.users[user]!r} interacted with every item: there are no negatives"
            )
        for i in np.flatnonzero(users == user):
            if rule is not None:
                drawn = _by_rule(rule, dataset, protocol, int(clicks[i]), int(starts[clicks[i]]))
            elif protocol.candidates == "full":
                drawn = free
            else:  # the largest Gumbel keys: sampling without replacement in proportion to the weights
                keys = generator.gumbel(size=len(free))
                if protocol.candidates == "popularity":
                    keys += weights[free]
                n = min(protocol.negatives, len(free))
                drawn = free[np.argpartition(-keys, n - 1)[:n]]
            target_index[i] = generator.integers(len(drawn) + 1)
            items[i, : len(drawn) + 1] = np.insert(drawn + FIRST_ROW, target_index[i], log.keys[clicks[i]])
    longest = int((items != ROW_PADDING).sum(1).max(initial=0))
    return CandidateLists(clicks, target_index, items[:, :longest])


def _by_rule(rule: Plugins, dataset: Dataset, protocol: Protocol, click: int, start: int) -> Ints:
    """Return the items that a candidate rule draws for the click of event `click`, whose group begins at `start`."""
    log, catalogue = dataset.log, dataset.catalogue
    first = int(log.offsets[log.users[click]])
    keys = catalogue.keys[log.keys[first:start][log.kinds[first:start] == CLICK][-protocol.short :] - FIRST_ROW]
    user, target = dataset.users[log.users[click]], int(catalogue.keys[log.keys[click] - FIRST_ROW])
    drawn = rule.draw(protocol.seed, user, click - first, target, catalogue.keys, keys, protocol.negatives)
    return catalogue.rows(drawn) - FIRST_ROW


def _generator(seed: int, user: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}\0{user}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest, "little")))


Score = Callable[[Queries, Tensor], Tensor]


@torch.inference_mode()
def ranks(score: Score, queries: Callable[[Ints], Queries], lists: CandidateLists, pairs: int = 1 << 14) -> Ints:
    """Return the rank of each click in its list by `score`: [V].

    `queries` gives the queries of the lists with the given numbers; about `pairs` scores are computed at a time.
    """
    result = np.empty(len(lists), np.int64)
    step = max(1, pairs // lists.items.shape[1])
    for batch in _batches(len(lists), step):
        items = lists.items[batch]
        scores = score(queries(batch), torch.from_numpy(items)).numpy()
        for i, row, target in zip(batch, range(len(batch)), lists.target_index[batch], strict=True):
            length = int((items[row] != ROW_PADDING).sum())
            result[i] = rank(scores[row, :length], int(target)).rank
    return result


def _batches(n: int, step: int) -> Iterator[Ints]:
    for start in range(0, n, step):
        yield np.arange(start, min(start + step, n))
