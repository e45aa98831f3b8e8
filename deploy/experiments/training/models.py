"""The models of the tables: each model's net, the phases that it is fitted on, and the fits that it starts from.

A slow net is fitted on the slow phase. A fast net without a cloud is fitted on all clicks of its device before
validation. Models informed by the slow net are trained on the fast phase, which the slow net has not seen: its scores
of clicks that it was fitted on are overconfident.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from deploy.experiments.data.candidate_lists import Score
from deploy.experiments.data.protocol import Phase
from deploy.experiments.training.hyperparameters import Hyperparameters, HyperparameterSet
from deploy.experiments.training.trainer import Trainer, popularity
from models.baselines.caser import Caser, CaserConfig
from models.baselines.fm import FM, FMConfig
from models.baselines.gru4rec import GRU4Rec, GRU4RecConfig
from models.baselines.hstu import HSTU
from models.baselines.mingru import MinGRU, MinGRUConfig
from models.baselines.neumf import NeuMF, NeuMFConfig
from models.baselines.sasrec import SASRec, SASRecConfig
from models.layers.hstu_block import HSTUConfig
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.variants import DIN, F2S, MC2SF, FastAlone, start_from_fast_alone

SLOW = (Phase.SLOW,)
FAST = (Phase.FAST,)
BOTH = (Phase.SLOW, Phase.FAST)

Fit = Callable[[Trainer, HyperparameterSet, int], Score]


@dataclass(frozen=True)
class Model:
    """A model of a table: `fit` builds and fits it with a seed."""

    name: str
    fit: Fit
    nets: tuple[str, ...]  # the nets whose hyperparameters `fit` reads: other hyperparameters do not change its cells
    code: str = ""  # SHA-256 of a plugin's file: another code has other cells
    fresh: bool = True  # r2 of the last L_F exposures before the target (paper), or of the last closed window (served)


def nets(trainer: Trainer, params: Hyperparameters, seed: int, *, symlog_priors: bool = False) -> Nets:
    """Return the nets of a release, newly initialised, with the lengths of the protocol."""
    of = trainer.protocol
    config = NetConfig(
        dim=params.dim,
        history_long=of.history,
        history_short=of.short,
        threshold=of.threshold,
        slow_product=params.product,
        fast_product=params.product,
        history_layers=params.history_layers,
        min_gru=params.min_gru,
        symlog_priors=symlog_priors,
    )
    return Nets.initial(config, trainer.rows, seed)


def without_identity(fitted: Callable[[Trainer, HyperparameterSet, int], tuple[Score, str]]) -> Fit:
    """Return the fit of a model whose single net `fitted` returns with the identity of its fit."""
    return lambda trainer, hyperparameters, seed: fitted(trainer, hyperparameters, seed)[0]


def fitted_din(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> tuple[DIN, str]:
    """Return DIN, eq. (1-2), and the identity of its fit."""
    net = DIN(nets(trainer, hyperparameters.din, seed))
    return net, trainer.fit("DIN", net, hyperparameters.din, seed, SLOW)


def fitted_sasrec(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> tuple[SASRec, str]:
    """Return SASRec over the delayed clicks, and the identity of its fit."""
    net = new_sasrec(trainer, hyperparameters, seed)
    return net, trainer.fit("SASRec", net, hyperparameters.sasrec, seed, SLOW)


def new_sasrec(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> SASRec:
    """Return the net before it is fitted."""
    torch.manual_seed(seed)
    params = hyperparameters.sasrec
    return SASRec(SASRecConfig(params.dim, trainer.protocol.history, dropout=params.dropout), trainer.rows)


def fitted_caser(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> tuple[Caser, str]:
    """Return Caser over the delayed clicks, and the identity of its fit."""
    torch.manual_seed(seed)
    params = hyperparameters.caser
    net = Caser(CaserConfig(params.dim, trainer.protocol.history, dropout=params.dropout), trainer.rows)
    return net, trainer.fit("Caser", net, params, seed, SLOW)


def fitted_hstu(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> tuple[HSTU, str]:
    """Return HSTU over the delayed clicks, and the identity of its fit: beyond the paper."""
    torch.manual_seed(seed)
    params = hyperparameters.hstu
    net = HSTU(HSTUConfig(params.dim, trainer.protocol.history, dropout=params.dropout), trainer.rows)
    return net, trainer.fit("HSTU", net, params, seed, SLOW)


def fitted_fm(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> tuple[FM, str]:
    """Return FM of user and item, and the identity of its fit."""
    torch.manual_seed(seed)
    net = FM(FMConfig(hyperparameters.fm.dim), trainer.rows, trainer.users)
    return net, trainer.fit("FM", net, hyperparameters.fm, seed, BOTH)


def fitted_neumf(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> tuple[NeuMF, str]:
    """Return NeuMF of user and item, and the identity of its fit."""
    torch.manual_seed(seed)
    net = NeuMF(NeuMFConfig(hyperparameters.neumf.dim), trainer.rows, trainer.users)
    return net, trainer.fit("NeuMF", net, hyperparameters.neumf, seed, BOTH)


def fitted_gru4rec(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> tuple[GRU4Rec, str]:
    """Return GRU4Rec over the device's clicks, and the identity of its fit."""
    net = new_gru4rec(trainer, hyperparameters, seed)
    return net, trainer.fit("GRU4Rec", net, hyperparameters.gru4rec, seed, BOTH)


def new_gru4rec(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> GRU4Rec:
    """Return the net before it is fitted."""
    torch.manual_seed(seed)
    params = hyperparameters.gru4rec
    config = GRU4RecConfig(params.dim, 2 * params.dim, trainer.protocol.recent, params.dropout)
    return GRU4Rec(config, trainer.rows)


def fitted_mingru(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> tuple[MinGRU, str]:
    """Return minGRU over the device's clicks, and the identity of its fit: beyond the paper."""
    torch.manual_seed(seed)
    params = hyperparameters.mingru
    config = MinGRUConfig(params.dim, 2 * params.dim, length=trainer.protocol.recent, dropout=params.dropout)
    net = MinGRU(config, trainer.rows)
    return net, trainer.fit("minGRU", net, params, seed, BOTH)


def fitted_f2s(
    trainer: Trainer, hyperparameters: HyperparameterSet, seed: int, *, fresh: bool = True
) -> tuple[F2S, str]:
    """Return F2S, eq. (5-6), and the identity of its fit.

    r2 is that of the last exposures; without `fresh`, in the fit and in the evaluation, that of the last closed window.
    """
    net = F2S(nets(trainer, hyperparameters.f2s, seed))
    return net, trainer.fit("DIN w F2S", net, hyperparameters.f2s, seed, SLOW, fresh=fresh)


def fitted_fast(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> tuple[FastAlone, str]:
    """Return the fast part alone, eq. (3-4), with an encoder of its own, and the identity of its fit."""
    net = FastAlone(nets(trainer, hyperparameters.fast, seed, symlog_priors=hyperparameters.s2f.symlog_priors))
    return net, trainer.fit("fast alone", net, hyperparameters.fast, seed, BOTH)


def fast_tuned(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int) -> FastAlone:
    """The control of MC2-SF: the fast part alone gets the same second fit on the fast phase without the slow net."""
    alone, after = fitted_fast(trainer, hyperparameters, seed)
    trainer.fit("fast alone tuned", alone, hyperparameters.s2f, seed, FAST, after=after)
    return alone


def fitted_mc2sf(trainer: Trainer, hyperparameters: HyperparameterSet, seed: int, *, fresh: bool = True) -> MC2SF:
    """Return MC2-SF, which is S2F, eq. (7-8), with the priors of F2S; `fresh`: see `fitted_f2s`.

    The fast part that was fitted alone gets the priors of a fitted F2S, whose weights stay fixed.
    """
    alone, after_fast = fitted_fast(trainer, hyperparameters, seed)
    cloud, after_slow = fitted_f2s(trainer, hyperparameters, seed, fresh=fresh)
    start_from_fast_alone(alone.nets.fast)
    net = MC2SF(alone.nets, cloud)
    trainer.fit("MC2-SF", net, hyperparameters.s2f, seed, FAST, after=after_fast + after_slow, fresh=fresh)
    return net


POPULARITY_MODEL = Model("popularity", lambda trainer, _recipes, _seed: popularity(trainer), ())
DIN_MODEL = Model("DIN", without_identity(fitted_din), ("din",))
SASREC_MODEL = Model("SASRec", without_identity(fitted_sasrec), ("sasrec",))
CASER_MODEL = Model("Caser", without_identity(fitted_caser), ("caser",))
HSTU_MODEL = Model("HSTU", without_identity(fitted_hstu), ("hstu",))
ITEM2VEC_MODEL = Model(  # over the device's last clicks: beyond the paper
    "item2vec",
    without_identity(lambda trainer, params, seed: trainer.item2vec(params.item2vec, seed, BOTH)),
    ("item2vec",),
)
FM_MODEL = Model("FM", without_identity(fitted_fm), ("fm",))
NEUMF_MODEL = Model("NeuMF", without_identity(fitted_neumf), ("neumf",))
GRU4REC_MODEL = Model("GRU4Rec", without_identity(fitted_gru4rec), ("gru4rec",))
MINGRU_MODEL = Model("minGRU", without_identity(fitted_mingru), ("mingru",))
F2S_MODEL = Model("DIN w/ F2S", without_identity(fitted_f2s), ("f2s",))
F2S_SERVED_MODEL = Model(
    "DIN w/ F2S, served", without_identity(partial(fitted_f2s, fresh=False)), ("f2s",), fresh=False
)
FAST_MODEL = Model("fast alone", without_identity(fitted_fast), ("fast", "s2f"))
FAST_TUNED_MODEL = Model("fast alone, fine-tuned", fast_tuned, ("fast", "s2f"))
MC2SF_MODEL = Model("MC2-SF", fitted_mc2sf, ("fast", "f2s", "s2f"))
MC2SF_SERVED_MODEL = Model("MC2-SF, served", partial(fitted_mc2sf, fresh=False), ("fast", "f2s", "s2f"), fresh=False)
