"""All experiments: the models that each one runs, and the pairs that it compares."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from deploy.experiments.data.protocol import LEAVE_ONE_OUT
from deploy.experiments.definitions import case_study, variations
from deploy.experiments.definitions.experiment import Arm, Experiment, Request, arms_of, with_product
from deploy.experiments.training.composite_models import (
    DCCL_MODEL,
    DIN_FM_MODEL,
    DIN_GRU4REC_MODEL,
    DIN_NEUMF_MODEL,
    FEDAVG_MODEL,
    GRU4REC_TUNED_MODEL,
)
from deploy.experiments.training.hyperparameters import Hyperparameters, HyperparameterSet
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
    ITEM2VEC_MODEL,
    MC2SF_MODEL,
    MC2SF_SERVED_MODEL,
    MINGRU_MODEL,
    NEUMF_MODEL,
    POPULARITY_MODEL,
    SASREC_MODEL,
)
from deploy.experiments.training.stacked_model import MC2SF_STACKED_MODEL

# models that need no other fit come first, MC2-SF early: an interrupted run has the main comparison
_TABLE2 = (
    POPULARITY_MODEL,
    ITEM2VEC_MODEL,
    GRU4REC_MODEL,
    DIN_MODEL,
    MC2SF_MODEL,
    MC2SF_STACKED_MODEL,
    FAST_MODEL,
    DIN_GRU4REC_MODEL,
    FAST_TUNED_MODEL,
    GRU4REC_TUNED_MODEL,
    FM_MODEL,
    NEUMF_MODEL,
    DIN_FM_MODEL,
    DIN_NEUMF_MODEL,
    MINGRU_MODEL,
)


def _table2(request: Request) -> list[Arm]:
    """Return arms of all models; the stacked one has the heads that the stream's nets have."""
    served = request.hyperparameters.with_product(("fast", "s2f"))
    return [
        replace(arm, hyperparameters=served) if arm.model is MC2SF_STACKED_MODEL else arm
        for arm in arms_of(*_TABLE2)(request)
    ]


TABLE2 = Experiment(
    "table2",
    "Device side (Table 2)",
    _table2,
    (
        *((MC2SF_STACKED_MODEL.name, model.name) for model in _TABLE2 if model is not MC2SF_STACKED_MODEL),
        *((MC2SF_MODEL.name, model.name) for model in _TABLE2 if model not in (MC2SF_MODEL, MC2SF_STACKED_MODEL)),
        (FAST_TUNED_MODEL.name, FAST_MODEL.name),
        (DIN_GRU4REC_MODEL.name, GRU4REC_TUNED_MODEL.name),
    ),
    sliced=True,
)
_TABLE3 = (SASREC_MODEL, CASER_MODEL, DIN_MODEL, F2S_MODEL, MC2SF_MODEL, HSTU_MODEL)
TABLE3 = Experiment(
    "table3",
    "Cloud side (Table 3)",
    arms_of(*_TABLE3),
    tuple((MC2SF_MODEL.name, model.name) for model in _TABLE3 if model is not MC2SF_MODEL),
    sliced=True,
)
ABLATION = Experiment(
    "ablation",
    "Ablation (Fig. 4)",
    arms_of(DIN_MODEL, F2S_MODEL, MC2SF_MODEL, F2S_SERVED_MODEL, MC2SF_SERVED_MODEL),
    (
        (F2S_MODEL.name, DIN_MODEL.name),
        (MC2SF_MODEL.name, F2S_MODEL.name),
        (F2S_SERVED_MODEL.name, DIN_MODEL.name),
        (MC2SF_SERVED_MODEL.name, F2S_SERVED_MODEL.name),
    ),
)
_LONG = Hyperparameters(dim=64, learning_rate=1e-3, batch=64, negatives=256, block=1, epochs=200, patience=5)
REFERENCE = Experiment(
    "reference",
    "Leave-one-out, as others publish it",
    arms_of(SASREC_MODEL, CASER_MODEL),
    (("SASRec", "Caser"),),
    LEAVE_ONE_OUT,
    replace(HyperparameterSet(), sasrec=_LONG, caser=_LONG),
)
"""SASRec at its published size (d about 50, 200 clicks)."""

SENSITIVITY = Experiment(
    "sensitivity",
    "Sensitivity to d and lambda (Fig. 5)",
    variations.sensitivity,
    (
        *((f"d {dim}", "d 32") for dim in variations.DIMS if dim != 32),
        *((f"lambda {l2:g}", "lambda 0.0001") for l2 in variations.LAMBDAS if l2 != 1e-4),
    ),
)
_FORMS = {
    "a cloud only (DIN)": DIN_MODEL,
    "b device only (fast alone)": FAST_MODEL,
    "c slow-centralised (FedAvg of GRU4Rec)": FEDAVG_MODEL,
    "d fast-centralised (DCCL-style patches on GRU4Rec)": DCCL_MODEL,
    "e bidirectional (MC2-SF)": MC2SF_MODEL,
}


def _forms(request: Request) -> list[Arm]:
    return [Arm(name, model, request.protocol, request.hyperparameters) for name, model in _FORMS.items()]


LOSSES = Experiment(
    "losses",
    "Losses",
    variations.losses,
    tuple(
        (f"{model.name}, softmax", f"{model.name}, {loss}")
        for model in variations.LOSSES_OF.values()
        for loss in variations.LOSSES
        if loss != "softmax"
    ),
    hyperparameters=HyperparameterSet().varied(
        variations.LOSSES_OF, epochs=60, patience=5
    ),  # losses differ in how fast they learn
)
ENCODERS = Experiment(
    "encoders",
    "Modern encoders in MC2-SF",
    variations.encoders,
    tuple((f"{model.name}, {name}", model.name) for model, names in variations.ENCODERS_OF.items() for name in names),
)
HEADS = Experiment(
    "heads",
    "An inner product added to the heads",
    variations.heads,
    (
        *((with_product(model.name), model.name) for model in variations.HEADS_OF),
        (with_product(F2S_MODEL.name), with_product(DIN_MODEL.name)),
        *(
            (with_product(MC2SF_MODEL.name), name)
            for name in (with_product(FAST_MODEL.name), GRU4REC_MODEL.name, DIN_GRU4REC_MODEL.name)
        ),
        *(
            (variations.DEVICE_PRODUCT, name)
            for name in (
                with_product(MC2SF_MODEL.name),
                MC2SF_MODEL.name,
                with_product(FAST_MODEL.name),
                DIN_GRU4REC_MODEL.name,
            )
        ),
    ),
)
PRIORS = Experiment(
    "priors",
    "Priors as they are, and their symlog",
    variations.priors,
    tuple(combinations((variations.SYMLOG, MC2SF_MODEL.name, FAST_TUNED_MODEL.name), 2)),
    sliced=True,
)
COLLABORATION = Experiment(
    "collaboration",
    "Forms of collaboration (Fig. 1)",
    _forms,
    tuple((list(_FORMS)[-1], name) for name in list(_FORMS)[:-1]),
)
EXPOSURES = Experiment("exposures", "Source of exposures", variations.exposures, variations.canaries())
WINDOW = Experiment(
    "window",
    "When r2 is uploaded",
    variations.windows,
    tuple((name, DIN_MODEL.name) for name in ("every exposure uploaded", *variations.WINDOWS)),
)
START = Experiment(
    "start",
    "Initialisation of item tables",
    variations.starts,
    tuple((f"{model.name}, taught ahead", f"{model.name}, from nothing") for model in variations.INITIALISED.values()),
)
CASE_STUDY = Experiment(
    "case-study",
    "One user (Fig. 3)",
    arms_of(FAST_MODEL, DIN_MODEL, MC2SF_MODEL, F2S_MODEL),
    case_study=case_study.render,
)
EXPERIMENTS = (
    REFERENCE,
    TABLE2,
    TABLE3,
    ABLATION,
    SENSITIVITY,
    LOSSES,
    ENCODERS,
    HEADS,
    PRIORS,
    COLLABORATION,
    EXPOSURES,
    WINDOW,
    START,
    CASE_STUDY,
)
