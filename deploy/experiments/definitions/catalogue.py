"""All experiments: what each one runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from deploy.experiments.data.protocol import LEAVE_ONE_OUT
from deploy.experiments.definitions import case_study, variations
from deploy.experiments.definitions.experiment import Arm, Asked, Experiment, plain, with_product
from deploy.experiments.training.collaboration_rows import FEDERATED_ROW, PATCHED_ROW
from deploy.experiments.training.composite_models import DIN_FM_ROW, DIN_GRU4REC_ROW, DIN_NEUMF_ROW, GRU4REC_TUNED_ROW
from deploy.experiments.training.hyperparameters import Recipe, Recipes
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
    ITEM2VEC_ROW,
    MC2SF_ROW,
    MC2SF_SERVED_ROW,
    MINGRU_ROW,
    NEUMF_ROW,
    POPULARITY_ROW,
    SASREC_ROW,
)

# rows that need no other come first, MC2-SF early: a run that is cut has the comparison that matters
_TABLE2 = (
    POPULARITY_ROW,
    ITEM2VEC_ROW,
    GRU4REC_ROW,
    DIN_ROW,
    MC2SF_ROW,
    FAST_ROW,
    DIN_GRU4REC_ROW,
    FAST_TUNED_ROW,
    GRU4REC_TUNED_ROW,
    FM_ROW,
    NEUMF_ROW,
    DIN_FM_ROW,
    DIN_NEUMF_ROW,
    MINGRU_ROW,
)
TABLE2 = Experiment(
    "table2",
    "Device side (Table 2)",
    plain(*_TABLE2),
    (
        *((MC2SF_ROW.name, row.name) for row in _TABLE2 if row is not MC2SF_ROW),
        (FAST_TUNED_ROW.name, FAST_ROW.name),
        (DIN_GRU4REC_ROW.name, GRU4REC_TUNED_ROW.name),
    ),
    sliced=True,
)
_TABLE3 = (SASREC_ROW, CASER_ROW, DIN_ROW, F2S_ROW, MC2SF_ROW, HSTU_ROW)
TABLE3 = Experiment(
    "table3",
    "Cloud side (Table 3)",
    plain(*_TABLE3),
    tuple((MC2SF_ROW.name, row.name) for row in _TABLE3 if row is not MC2SF_ROW),
    sliced=True,
)
ABLATION = Experiment(
    "ablation",
    "Ablation (Fig. 4)",
    plain(DIN_ROW, F2S_ROW, MC2SF_ROW, F2S_SERVED_ROW, MC2SF_SERVED_ROW),
    (
        (F2S_ROW.name, DIN_ROW.name),
        (MC2SF_ROW.name, F2S_ROW.name),
        (F2S_SERVED_ROW.name, DIN_ROW.name),
        (MC2SF_SERVED_ROW.name, F2S_SERVED_ROW.name),
    ),
)
_LONG = Recipe(dim=64, learning_rate=1e-3, batch=64, negatives=256, block=1, epochs=200, patience=5)
REFERENCE = Experiment(
    "reference",
    "Leave-one-out, as others publish it",
    plain(SASREC_ROW, CASER_ROW),
    (("SASRec", "Caser"),),
    LEAVE_ONE_OUT,
    replace(
        Recipes(),
        sasrec=_LONG,
        caser=_LONG,
    ),
)
"""SASRec at the size that is published (d about 50, 200 clicks)."""

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
    "a cloud only (DIN)": DIN_ROW,
    "b device only (fast alone)": FAST_ROW,
    "c slow-centralised (FedAvg of GRU4Rec)": FEDERATED_ROW,
    "d fast-centralised (DCCL-style patches on GRU4Rec)": PATCHED_ROW,
    "e bidirectional (MC2-SF)": MC2SF_ROW,
}


def _forms(asked: Asked) -> list[Arm]:
    return [Arm(name, row, asked.protocol, asked.recipes) for name, row in _FORMS.items()]


LOSSES = Experiment(
    "losses",
    "Losses",
    variations.losses,
    tuple(
        (f"{row.name}, softmax", f"{row.name}, {loss}")
        for row in variations.LOSSES_OF.values()
        for loss in variations.LOSSES
        if loss != "softmax"
    ),
    recipes=Recipes().varied(variations.LOSSES_OF, epochs=60, patience=5),  # losses differ in how fast they learn
)
ENCODERS = Experiment(
    "encoders",
    "Modern encoders in MC2-SF",
    variations.encoders,
    tuple((f"{row.name}, {name}", row.name) for row, names in variations.ENCODERS_OF.items() for name in names),
)
HEADS = Experiment(
    "heads",
    "An inner product beside the heads",
    variations.heads,
    (
        *((with_product(row.name), row.name) for row in variations.HEADS_OF),
        (with_product(F2S_ROW.name), with_product(DIN_ROW.name)),
        *(
            (with_product(MC2SF_ROW.name), name)
            for name in (with_product(FAST_ROW.name), GRU4REC_ROW.name, DIN_GRU4REC_ROW.name)
        ),
        *(
            (variations.DEVICE_PRODUCT, name)
            for name in (
                with_product(MC2SF_ROW.name),
                MC2SF_ROW.name,
                with_product(FAST_ROW.name),
                DIN_GRU4REC_ROW.name,
            )
        ),
    ),
)
PRIORS = Experiment(
    "priors",
    "How large priors arrive",
    variations.priors,
    tuple(combinations((variations.SYMLOG, MC2SF_ROW.name, FAST_TUNED_ROW.name), 2)),
    sliced=True,
)
COLLABORATION = Experiment(
    "collaboration",
    "Forms of collaboration (Fig. 1)",
    _forms,
    tuple((list(_FORMS)[-1], name) for name in list(_FORMS)[:-1]),
)
EXPOSURES = Experiment("exposures", "Where exposures come from", variations.exposures, variations.canaries())
WINDOW = Experiment(
    "window",
    "When r2 goes up",
    variations.windows,
    tuple((name, DIN_ROW.name) for name in ("every exposure uploaded", *variations.WINDOWS)),
)
START = Experiment(
    "start",
    "Where item tables start from",
    variations.starts,
    tuple((f"{row.name}, taught ahead", f"{row.name}, from nothing") for row in variations.AHEAD_OF.values()),
)
CASE_STUDY = Experiment(
    "case-study", "One user (Fig. 3)", plain(FAST_ROW, DIN_ROW, MC2SF_ROW, F2S_ROW), look=case_study.look
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
