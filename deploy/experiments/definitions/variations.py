"""Experiments that vary a setting: size and L2 (Fig. 5), losses, encoders, heads, exposures, windows of r2."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from msgspec import structs

from deploy.experiments.data.protocol import Phase
from deploy.experiments.definitions.experiment import Arm, Request, arms_of, with_product
from deploy.experiments.results.result import UploadCosts
from deploy.experiments.training.composite_models import DIN_GRU4REC_MODEL
from deploy.experiments.training.hyperparameters import Changes
from deploy.experiments.training.models import (
    CASER_MODEL,
    DIN_MODEL,
    F2S_MODEL,
    F2S_SERVED_MODEL,
    FAST_MODEL,
    FAST_TUNED_MODEL,
    FM_MODEL,
    GRU4REC_MODEL,
    HSTU_MODEL,
    MC2SF_MODEL,
    MINGRU_MODEL,
    NEUMF_MODEL,
    SASREC_MODEL,
)
from deploy.experiments.training.trainer import Trainer
from models.data.event_kinds import EXPOSURE
from models.data.interaction_log import Ints
from models.training.losses import bce, bpr, gbce
from streams.codec import Tensor, encode
from streams.records import NegativeMemory, SlowPriors, Versions

_DIM = 32  # of the vectors whose bytes are counted
DIMS = (4, 8, 16, 32, 64)
LAMBDAS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
INITIALISED = {
    "din": DIN_MODEL,
    "fast": FAST_MODEL,
    "gru4rec": GRU4REC_MODEL,
    "mingru": MINGRU_MODEL,
    "sasrec": SASREC_MODEL,
    "caser": CASER_MODEL,
    "hstu": HSTU_MODEL,
    "fm": FM_MODEL,
    "neumf": NEUMF_MODEL,
}
LOSSES: dict[str, Changes] = {
    "softmax": {},
    "softmax, not corrected": {"corrected": False},
    "gbce": {"loss": gbce},  # with SASRec: gSASRec
    "bce": {"loss": bce},
    "bpr": {"loss": bpr},
}
LOSSES_OF = {"sasrec": SASREC_MODEL, "gru4rec": GRU4REC_MODEL, "din": DIN_MODEL, "fast": FAST_MODEL}
ENCODERS: dict[str, Changes] = {
    "HSTU": {"history_layers": 2},
    "minGRU": {"min_gru": True},
    "both": {"history_layers": 2, "min_gru": True},
}
ENCODERS_OF = {DIN_MODEL: ("HSTU",), F2S_MODEL: tuple(ENCODERS), FAST_MODEL: ("minGRU",), MC2SF_MODEL: tuple(ENCODERS)}
THRESHOLDS = (2, 5, 10, 20)
WINDOWS = {  # name -> (threshold, carried)
    f"{'carried' if carried else 'tumbling'} {threshold}": (threshold, carried)
    for carried in (False, True)
    for threshold in THRESHOLDS
}
HEADS_OF = (DIN_MODEL, F2S_MODEL, FAST_MODEL, MC2SF_MODEL)
DEVICE_PRODUCT = f"{MC2SF_MODEL.name}, product on the device"
SYMLOG = f"{MC2SF_MODEL.name}, symlog of priors"
_OF_MC2SF = ("f2s", "fast", "s2f")


def sensitivity(request: Request) -> list[Arm]:
    """Return arms of MC2-SF with other d and other lambda, named `d 4`, `lambda 0.01`."""
    hyperparameters = {f"d {dim}": request.hyperparameters.varied(_OF_MC2SF, dim=dim) for dim in DIMS}
    hyperparameters |= {f"lambda {l2:g}": request.hyperparameters.varied(_OF_MC2SF, l2=l2) for l2 in LAMBDAS}
    return [Arm(name, MC2SF_MODEL, request.protocol, varied) for name, varied in hyperparameters.items()]


def starts(request: Request) -> list[Arm]:
    """Return arms of each net with an item table initialised from item2vec, and with a random one."""
    arms = []
    for net, model in INITIALISED.items():
        for ahead in (True, False):
            name = f"{model.name}, {'taught ahead' if ahead else 'from nothing'}"
            hyperparameters = request.hyperparameters.varied((net,), ahead=ahead)
            arms.append(Arm(name, model, request.protocol, hyperparameters))
    return arms


def encoders(request: Request) -> list[Arm]:
    """Return arms of the nets of MC2-SF with a modern encoder instead of DIN's attention, of the GRUs, and of both."""
    arms = []
    for model, names in ENCODERS_OF.items():
        arms.append(Arm(model.name, model, request.protocol, request.hyperparameters))
        for name in names:
            hyperparameters = request.hyperparameters.varied(("din", "f2s", "fast"), **ENCODERS[name])
            arms.append(Arm(f"{model.name}, {name}", model, request.protocol, hyperparameters))
    return arms


def heads(request: Request) -> list[Arm]:
    """Return arms of MC2-SF's nets with and without an inner product in the heads, and of nets that score by one."""
    return [
        *arms_of(GRU4REC_MODEL, DIN_GRU4REC_MODEL, *HEADS_OF)(request),
        *(
            Arm(with_product(model.name), model, request.protocol, request.hyperparameters.with_product())
            for model in HEADS_OF
        ),
        # the nets of the stream
        Arm(DEVICE_PRODUCT, MC2SF_MODEL, request.protocol, request.hyperparameters.with_product(("fast", "s2f"))),
    ]


def priors(request: Request) -> list[Arm]:
    """Return arms of MC2-SF with priors as they are and with their symlog, and of its control."""
    return [
        *arms_of(FAST_TUNED_MODEL, MC2SF_MODEL)(request),
        Arm(SYMLOG, MC2SF_MODEL, request.protocol, request.hyperparameters.varied(("s2f",), symlog_priors=True)),
    ]


def losses(request: Request) -> list[Arm]:
    """Return arms of some nets with each loss, and of some nets trained as the paper describes."""
    arms = [
        Arm(f"{model.name}, {name}", model, request.protocol, request.hyperparameters.varied((net,), **values))
        for net, model in LOSSES_OF.items()
        for name, values in LOSSES.items()
    ]
    published = request.hyperparameters.as_published()
    if request.epochs is not None:
        published = published.capped(request.epochs)
    return arms + [
        Arm(f"{model.name}, as published", model, request.protocol, published)
        for model in (GRU4REC_MODEL, DIN_MODEL, F2S_MODEL, FAST_MODEL, MC2SF_MODEL)
    ]


def exposures(request: Request) -> list[Arm]:
    """Return arms for each policy of the source that gives exposures, and canaries with another user's exposures."""
    arms = []
    policies = request.source.policies
    has_own = policies[0] == "logged"
    for policy in policies:
        if (policy == "logged") is not has_own:
            continue
        protocol = replace(request.protocol, exposures=policy)
        if "rated" in policies:  # ratings below 4 are exposures, or clicks like all others
            protocol = replace(protocol, positives="rated" if policy == "rated" else "all")
        arms += [
            Arm(f"{model.name}, {policy}", model, protocol, request.hyperparameters)
            for model in (DIN_MODEL, F2S_MODEL, FAST_MODEL, MC2SF_MODEL)
        ]
        arms += [
            Arm(f"{model.name}, {policy}, of others", model, protocol, request.hyperparameters, shuffled_users=True)
            for model in (F2S_MODEL, FAST_MODEL, MC2SF_MODEL)
        ]
    return arms


def canaries() -> tuple[tuple[str, str], ...]:
    """Return the pairs (own exposures, exposures of another user): they differ if exposures carry information."""
    return tuple(
        (f"{model.name}, {policy}", f"{model.name}, {policy}, of others")
        for policy in ("rated", "simulated", "logged")
        for model in (F2S_MODEL, FAST_MODEL, MC2SF_MODEL)
    )


def windows(request: Request) -> list[Arm]:
    """Return arms of F2S with the served r2, for each threshold and both rules, and of DIN, which has no r2."""
    arms = [Arm(DIN_MODEL.name, DIN_MODEL, request.protocol, request.hyperparameters)]
    arms.append(Arm("every exposure uploaded", F2S_MODEL, request.protocol, request.hyperparameters, measure=always))
    for name, (threshold, carried) in WINDOWS.items():
        protocol = replace(request.protocol, threshold=threshold, carried=carried)
        arms.append(Arm(name, F2S_SERVED_MODEL, protocol, request.hyperparameters, measure=frontier))
    return arms


def frontier(trainer: Trainer) -> UploadCosts:
    """Return the uploads and bytes at the protocol's threshold, and the age of the r2 of test clicks."""
    states = trainer.known_history(fresh=False).states
    tested = np.searchsorted(states.event, trainer.candidate_lists(Phase.TEST).clicks)
    missing = states.exposures.end[tested] - states.closed.end[tested]  # exposures that the r2 lacks
    has = states.window[tested] > 0
    shown = states.log.times[states.log.kinds == EXPOSURE]
    age = states.time[tested][has] - shown[states.closed.end[tested][has] - 1]
    hours = round(float(np.median(age)) / 3_600_000, 2) if has.any() else 0.0
    uploads = float(states.window[_last_clicks(states.user)].sum())
    return structs.replace(_costs(trainer, uploads, missing, has), stale_hours_median=hours)


def always(trainer: Trainer) -> UploadCosts:
    """Return the uploads and bytes if r2 is uploaded after each exposure."""
    states = trainer.known_history().states
    tested = np.searchsorted(states.event, trainer.candidate_lists(Phase.TEST).clicks)
    has = states.exposures.end[tested] > states.exposures.start[tested]
    last = _last_clicks(states.user)
    uploads = float((states.exposures.end - states.exposures.start)[last].sum())
    return _costs(trainer, uploads, np.zeros(len(tested), np.int64), has)


def _last_clicks(users: Ints) -> Ints:
    """Return the index of each user's last click."""
    return np.append(np.flatnonzero(np.diff(users)), len(users) - 1)


def _costs(trainer: Trainer, uploads: float, missing: Ints, has: np.ndarray) -> UploadCosts:
    vector = Tensor.of(np.zeros(_DIM), "<f4")
    memory = NegativeMemory("user", 1, vector, 1, trainer.protocol.threshold, 0)
    n = trainer.candidate_lists(Phase.TEST).items.shape[1]
    prior, score = Tensor.of(np.zeros((n, _DIM)), "<f2"), Tensor.of(np.zeros(n), "<f4")
    answer = SlowPriors("user", 1, prior, prior, score, score, 1, 1, Versions(1, 1, 1))
    return UploadCosts(
        uploads_per_user=round(uploads / trainer.users, 2),
        bytes_up_per_user=round(uploads / trainer.users * len(encode(memory))),
        bytes_down_per_request=len(encode(answer)),
        share_with_r2=round(float(has.mean()), 4),
        stale_exposures=round(float(missing[has].mean()) if has.any() else 0.0, 2),
    )
