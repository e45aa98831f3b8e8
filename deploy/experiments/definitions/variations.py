"""Experiments that vary a setting: sizes and L2 (Fig. 5), exposure policies, windows of the served r2."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from msgspec import structs

from deploy.experiments.data.protocol import Phase
from deploy.experiments.definitions.experiment import Arm, Asked, plain, with_product
from deploy.experiments.results.result import UploadCosts
from deploy.experiments.training.composite_models import DIN_GRU4REC_ROW
from deploy.experiments.training.hyperparameters import Changes
from deploy.experiments.training.models import (
    CASER_ROW,
    DIN_ROW,
    F2S_ROW,
    F2S_SERVED_ROW,
    FAST_ROW,
    FAST_TUNED_ROW,
    FM_ROW,
    GRU4REC_ROW,
    HSTU_ROW,
    MC2SF_ROW,
    MINGRU_ROW,
    NEUMF_ROW,
    SASREC_ROW,
)
from deploy.experiments.training.trainer import Bench
from models.data.event_kinds import EXPOSURE
from models.data.interaction_log import Ints
from models.training.losses import bce, bpr, gbce
from streams.codec import Tensor, encode
from streams.records import NegativeMemory, SlowPriors, Versions

DIMS = (4, 8, 16, 32, 64)
LAMBDAS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
AHEAD_OF = {
    "din": DIN_ROW,
    "fast": FAST_ROW,
    "gru4rec": GRU4REC_ROW,
    "mingru": MINGRU_ROW,
    "sasrec": SASREC_ROW,
    "caser": CASER_ROW,
    "hstu": HSTU_ROW,
    "fm": FM_ROW,
    "neumf": NEUMF_ROW,
}
LOSSES: dict[str, Changes] = {
    "softmax": {},
    "softmax, not corrected": {"corrected": False},
    "gbce": {"loss": gbce},  # with SASRec: gSASRec
    "bce": {"loss": bce},
    "bpr": {"loss": bpr},
}
LOSSES_OF = {"sasrec": SASREC_ROW, "gru4rec": GRU4REC_ROW, "din": DIN_ROW, "fast": FAST_ROW}
ENCODERS: dict[str, Changes] = {
    "HSTU": {"history_layers": 2},
    "minGRU": {"min_gru": True},
    "both": {"history_layers": 2, "min_gru": True},
}
ENCODERS_OF = {DIN_ROW: ("HSTU",), F2S_ROW: tuple(ENCODERS), FAST_ROW: ("minGRU",), MC2SF_ROW: tuple(ENCODERS)}
THRESHOLDS = (2, 5, 10, 20)
WINDOWS = {  # name -> (threshold, carried)
    f"{'carried' if carried else 'tumbling'} {threshold}": (threshold, carried)
    for carried in (False, True)
    for threshold in THRESHOLDS
}
HEADS_OF = (DIN_ROW, F2S_ROW, FAST_ROW, MC2SF_ROW)
DEVICE_PRODUCT = f"{MC2SF_ROW.name}, product on the device"
SYMLOG = f"{MC2SF_ROW.name}, symlog of priors"
_OF_MC2SF = ("f2s", "fast", "s2f")


def sensitivity(asked: Asked) -> list[Arm]:
    """MC2-SF with other d, and with other lambda: `what value`."""
    recipes = {f"d {dim}": asked.recipes.varied(_OF_MC2SF, dim=dim) for dim in DIMS}
    recipes |= {f"lambda {l2:g}": asked.recipes.varied(_OF_MC2SF, l2=l2) for l2 in LAMBDAS}
    return [Arm(name, MC2SF_ROW, asked.protocol, varied) for name, varied in recipes.items()]


def starts(asked: Asked) -> list[Arm]:
    """Each net with an item table that starts as item2vec has it, and with one that starts at random."""
    arms = []
    for net, row in AHEAD_OF.items():
        for ahead in (True, False):
            recipes = asked.recipes.varied((net,), ahead=ahead)
            arms.append(Arm(f"{row.name}, {'taught ahead' if ahead else 'from nothing'}", row, asked.protocol, recipes))
    return arms


def encoders(asked: Asked) -> list[Arm]:
    """The nets of MC2-SF with a modern encoder in the place of DIN's history, of the GRUs, and of both."""
    arms = []
    for row, names in ENCODERS_OF.items():
        arms.append(Arm(row.name, row, asked.protocol, asked.recipes))
        for name in names:
            recipes = asked.recipes.varied(("din", "f2s", "fast"), **ENCODERS[name])
            arms.append(Arm(f"{row.name}, {name}", row, asked.protocol, recipes))
    return arms


def heads(asked: Asked) -> list[Arm]:
    """The nets of MC2-SF with the paper's heads and with an inner product beside them; rows that score by one."""
    return [
        *plain(GRU4REC_ROW, DIN_GRU4REC_ROW, *HEADS_OF)(asked),
        *(Arm(with_product(row.name), row, asked.protocol, asked.recipes.with_product()) for row in HEADS_OF),
        # as the stream's nets are
        Arm(DEVICE_PRODUCT, MC2SF_ROW, asked.protocol, asked.recipes.with_product(("fast", "s2f"))),
    ]


def priors(asked: Asked) -> list[Arm]:
    """MC2-SF with priors as they are and with their symlog, and its control."""
    return [
        *plain(FAST_TUNED_ROW, MC2SF_ROW)(asked),
        Arm(SYMLOG, MC2SF_ROW, asked.protocol, asked.recipes.varied(("s2f",), symlog_priors=True)),
    ]


def losses(asked: Asked) -> list[Arm]:
    """Each of some nets with each loss, all else alike; and some as the paper says that it trained."""
    arms = [
        Arm(f"{row.name}, {name}", row, asked.protocol, asked.recipes.varied((net,), **values))
        for net, row in LOSSES_OF.items()
        for name, values in LOSSES.items()
    ]
    published = (
        asked.recipes.as_published() if asked.epochs is None else asked.recipes.as_published().capped(asked.epochs)
    )
    return arms + [
        Arm(f"{row.name}, as published", row, asked.protocol, published)
        for row in (GRU4REC_ROW, DIN_ROW, F2S_ROW, FAST_ROW, MC2SF_ROW)
    ]


def exposures(asked: Asked) -> list[Arm]:
    """Each policy that the source can be read with and that gives exposures; and the canary: another user's."""
    arms = []
    policies = asked.source.policies
    has_own = policies[0] == "logged"
    for policy in policies:
        if (policy == "logged") is not has_own:
            continue
        protocol = replace(asked.protocol, exposures=policy)
        if "rated" in policies:  # ratings below 4 are exposures, or clicks as all others
            protocol = replace(protocol, positives="rated" if policy == "rated" else "all")
        arms += [Arm(f"{row.name}, {policy}", row, protocol, asked.recipes) for row in (DIN_ROW, F2S_ROW)]
        arms += [Arm(f"{row.name}, {policy}", row, protocol, asked.recipes) for row in (FAST_ROW, MC2SF_ROW)]
        arms += [
            Arm(f"{row.name}, {policy}, of others", row, protocol, asked.recipes, strangers=True)
            for row in (F2S_ROW, FAST_ROW, MC2SF_ROW)
        ]
    return arms


def canaries() -> tuple[tuple[str, str], ...]:
    """What is compared there: with exposures of another user something is lost, where they say something."""
    return tuple(
        (f"{row.name}, {policy}", f"{row.name}, {policy}, of others")
        for policy in ("rated", "simulated", "logged")
        for row in (F2S_ROW, FAST_ROW, MC2SF_ROW)
    )


def windows(asked: Asked) -> list[Arm]:
    """F2S with the r2 as it is served, for thresholds and both rules; and without any r2."""
    arms = [Arm(DIN_ROW.name, DIN_ROW, asked.protocol, asked.recipes)]
    arms.append(Arm("every exposure uploaded", F2S_ROW, asked.protocol, asked.recipes, measure=always))
    for name, (threshold, carried) in WINDOWS.items():
        protocol = replace(asked.protocol, threshold=threshold, carried=carried)
        arms.append(Arm(name, F2S_SERVED_ROW, protocol, asked.recipes, measure=frontier))
    return arms


def frontier(bench: Bench) -> UploadCosts:
    """What a threshold costs: uploads and bytes, and how old the r2 is that a test click meets."""
    folded = bench.known(fresh=False).folded
    some = np.searchsorted(folded.event, bench.lists(Phase.TEST).clicks)
    missing = folded.exposures.end[some] - folded.closed.end[some]  # exposures that the r2 lacks
    has = folded.window[some] > 0
    shown = folded.log.times[folded.log.kinds == EXPOSURE]
    age = folded.time[some][has] - shown[folded.closed.end[some][has] - 1]
    hours = round(float(np.median(age)) / 3_600_000, 2) if has.any() else 0.0
    uploads = float(folded.window[_last(folded.user)].sum())
    return structs.replace(_costs(bench, uploads, missing, has), stale_hours_median=hours)


def always(bench: Bench) -> UploadCosts:
    """The same where r2 goes up after each exposure."""
    folded = bench.known().folded
    some = np.searchsorted(folded.event, bench.lists(Phase.TEST).clicks)
    has = folded.exposures.end[some] > folded.exposures.start[some]
    last = _last(folded.user)
    uploads = float((folded.exposures.end - folded.exposures.start)[last].sum())
    return _costs(bench, uploads, np.zeros(len(some), np.int64), has)


def _last(users: Ints) -> Ints:
    """The place of each user's last click."""
    return np.append(np.flatnonzero(np.diff(users)), len(users) - 1)


def _costs(bench: Bench, uploads: float, missing: Ints, has: np.ndarray, dim: int = 32) -> UploadCosts:
    vector = Tensor.of(np.zeros(dim), "<f4")
    memory = NegativeMemory("user", 1, vector, 1, bench.protocol.threshold, 0)
    n = bench.lists(Phase.TEST).items.shape[1]
    prior, score = Tensor.of(np.zeros((n, dim)), "<f2"), Tensor.of(np.zeros(n), "<f4")
    answer = SlowPriors("user", 1, prior, prior, score, score, 1, 1, Versions(1, 1, 1))
    return UploadCosts(
        uploads_per_user=round(uploads / bench.users, 2),
        bytes_up_per_user=round(uploads / bench.users * len(encode(memory))),
        bytes_down_per_request=len(encode(answer)),
        share_with_r2=round(float(has.mean()), 4),
        stale_exposures=round(float(missing[has].mean()) if has.any() else 0.0, 2),
    )
