"""All experiments: what each one runs."""

from __future__ import annotations

from deploy.experiments.experiment import Experiment, plain
from deploy.experiments.rows import (
    CASER_ROW,
    DIN_ROW,
    F2S_ROW,
    F2S_SERVED_ROW,
    FAST_ROW,
    FM_ROW,
    GRU4REC_ROW,
    HSTU_ROW,
    MC2SF_ROW,
    MC2SF_SERVED_ROW,
    MINGRU_ROW,
    NEUMF_ROW,
    SASREC_ROW,
)
from deploy.experiments.vanilla_rows import DIN_FM_ROW, DIN_GRU4REC_ROW, DIN_NEUMF_ROW

# rows that need no other come first, MC2-SF early: a run that is cut has the comparison that matters
_TABLE2 = (
    GRU4REC_ROW,
    DIN_ROW,
    MC2SF_ROW,
    FAST_ROW,
    DIN_GRU4REC_ROW,
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
    tuple((MC2SF_ROW.name, row.name) for row in _TABLE2 if row is not MC2SF_ROW),
)
_TABLE3 = (SASREC_ROW, CASER_ROW, DIN_ROW, F2S_ROW, MC2SF_ROW, HSTU_ROW)
TABLE3 = Experiment(
    "table3",
    "Cloud side (Table 3)",
    plain(*_TABLE3),
    tuple((MC2SF_ROW.name, row.name) for row in _TABLE3 if row is not MC2SF_ROW),
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
EXPERIMENTS = (TABLE2, TABLE3, ABLATION)
