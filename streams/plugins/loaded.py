"""The plugins of a run, loaded and checked once per process."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import Rank, rank
from streams.plugins import laws
from streams.plugins.plugin import Plugin, PluginError, check, load, named, recorded
from streams.plugins.protocols import CandidateRule, Draw, Keys, Metric, Seen, Variant

RankValue = Callable[[int, int], float]  # rank, number of candidates -> value between 0 and 1
Scores = Callable[[Seen], NDArray[np.float64]]
RESERVED = ("random", "popularity", "river", "din", "f2s", "fast", "mc2sf", "served", "mrr", "n", "chance")
MAX_NAME = 32


@dataclass(frozen=True)
class Plugins:
    """The plugins that a process calls while it works; sources and policies are called before a log is sent."""

    metrics: dict[str, RankValue] = field(default_factory=dict)
    variants: dict[str, Scores] = field(default_factory=dict)
    negatives: Callable[[Draw], Keys] | None = None

    def ranks(self, seen: Seen, target_index: int) -> dict[str, Rank]:
        """Return the ranks of the candidate at `target_index` by the variants."""
        return {name: rank(scores(seen), target_index) for name, scores in self.variants.items()}

    def draw(self, seed: int, user: str, seq: int, target: int, catalogue: Keys, clicks: Keys, count: int) -> Keys:
        """Return the negatives of click `seq` of `user` by the candidate rule, which must be there."""
        assert self.negatives is not None
        if not np.any(catalogue != target):
            return catalogue[:0]
        digest = hashlib.blake2b(f"candidates\0{seed}\0{user}\0{seq}".encode(), digest_size=16).digest()
        random = np.random.Generator(np.random.Philox(int.from_bytes(digest, "little")))
        return self.negatives(Draw(user, target, catalogue, clicks, count, random))


@functools.lru_cache(maxsize=8)
def loaded(text: str) -> Plugins:
    """Return the plugins of the setting `plugins`. Raises PluginError if one was changed or breaks a law."""
    metrics: dict[str, RankValue] = {}
    variants: dict[str, Scores] = {}
    negatives: Callable[[Draw], Keys] | None = None
    for plugin in recorded(text):
        if plugin.kind in ("source", "exposures"):
            check(plugin)
            continue
        function = called(plugin)
        if plugin.kind == "candidates":
            rule = cast(CandidateRule, function)
            laws.check_candidates(plugin, rule)
            negatives = functools.partial(laws.negatives, plugin, rule)
            continue
        if plugin.name in {*metrics, *variants, *RESERVED} or len(plugin.name) > MAX_NAME:
            raise PluginError(f"{plugin}: the name {plugin.name} is taken or longer than {MAX_NAME} characters")
        if plugin.kind == "metric":
            metric = cast(Metric, function)
            laws.check_metric(plugin, metric)
            metrics[plugin.name] = functools.partial(laws.value, plugin, metric)
        else:
            variant = cast(Variant, function)
            laws.check_variant(plugin, variant)
            variants[plugin.name] = functools.partial(laws.scores, plugin, variant)
    return Plugins(metrics, variants, negatives)


def setting(
    *,
    metrics: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    candidates: str | None = None,
    others: Sequence[Plugin] = (),
) -> str:
    """Return the setting `plugins` for names from a command line. Raises PluginError, also for a broken law."""
    for plugin in others:
        if not callable(load(plugin)):
            raise PluginError(f"{plugin} is no class")
    plugins = [*others, *([named("candidates", candidates)] if candidates is not None else [])]
    plugins += [named("metric", name) for name in metrics or ()] + [named("variant", name) for name in variants or ()]
    text = " ".join(plugin.setting for plugin in plugins)
    loaded(text)
    return text


def called(plugin: Plugin) -> Callable[..., object]:
    """Return the plugin's function, or an object of its class. Raises PluginError if that can't be called."""
    function = load(plugin)
    if isinstance(function, type):
        function = laws.call(plugin, function)
    if not callable(function):
        raise PluginError(f"{plugin} is neither a function nor a class with __call__")
    return function
