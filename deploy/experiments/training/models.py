"""The rows of the tables: which net is built, on which phases it is fitted, and from which other fits it starts.

A slow net is fitted on the slow phase. A fast net without a cloud learns from all clicks that its device had before
validation. What is told something by a slow net learns that on the fast phase, which the slow net was not fitted on:
a score of clicks that it has learnt would be trusted too much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from deploy.experiments.data.candidate_lists import Score
from deploy.experiments.data.protocol import Phase
from deploy.experiments.training.hyperparameters import Recipe, Recipes
from deploy.experiments.training.trainer import Bench, popularity
from models.baselines.caser import Caser, CaserConfig
from models.baselines.fm import FM, FMConfig
from models.baselines.gru4rec import GRU4Rec, GRU4RecConfig
from models.baselines.hstu import HSTU
from models.baselines.item2vec import Item2Vec
from models.baselines.mingru import MinGRU, MinGRUConfig
from models.baselines.neumf import NeuMF, NeuMFConfig
from models.baselines.sasrec import SASRec, SASRecConfig
from models.layers.hstu_block import HSTUConfig
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.variants import DIN, F2S, MC2SF, FastAlone, start_from_fast_alone

SLOW = (Phase.SLOW,)
FAST = (Phase.FAST,)
BOTH = (Phase.SLOW, Phase.FAST)

Fit = Callable[[Bench, Recipes, int], Score]


@dataclass(frozen=True)
class Row:
    """A net of a table: `fit` builds and fits it with a seed."""

    name: str
    fit: Fit
    nets: tuple[str, ...]  # whose recipes `fit` reads: a row of another net does not depend on them
    fresh: bool = True  # r2 of the last L_F exposures before the target (paper), or of the last closed window (served)


def nets(bench: Bench, recipe: Recipe, seed: int, *, symlog_priors: bool = False) -> Nets:
    """The nets of a release, newly initialised, with lengths as the protocol has them."""
    of = bench.protocol
    config = NetConfig(
        dim=recipe.dim,
        history_long=of.history,
        history_short=of.short,
        threshold=of.threshold,
        slow_product=recipe.product,
        fast_product=recipe.product,
        history_layers=recipe.history_layers,
        min_gru=recipe.min_gru,
        symlog_priors=symlog_priors,
    )
    return Nets.initial(config, bench.rows, seed)


def din(bench: Bench, recipes: Recipes, seed: int) -> DIN:
    """Eq. (1-2)."""
    return fitted_din(bench, recipes, seed)[0]


def fitted_din(bench: Bench, recipes: Recipes, seed: int) -> tuple[DIN, str]:
    """DIN and the identity of its fit."""
    net = DIN(nets(bench, recipes.din, seed))
    return net, bench.fit("DIN", net, recipes.din, seed, SLOW)


def sasrec(bench: Bench, recipes: Recipes, seed: int) -> SASRec:
    """SASRec over the delayed clicks."""
    net = new_sasrec(bench, recipes, seed)
    bench.fit("SASRec", net, recipes.sasrec, seed, SLOW)
    return net


def new_sasrec(bench: Bench, recipes: Recipes, seed: int) -> SASRec:
    """The net before it is fitted."""
    torch.manual_seed(seed)
    recipe = recipes.sasrec
    return SASRec(SASRecConfig(recipe.dim, bench.protocol.history, dropout=recipe.dropout), bench.rows)


def caser(bench: Bench, recipes: Recipes, seed: int) -> Caser:
    """Caser over the delayed clicks."""
    torch.manual_seed(seed)
    recipe = recipes.caser
    net = Caser(CaserConfig(recipe.dim, bench.protocol.history, dropout=recipe.dropout), bench.rows)
    bench.fit("Caser", net, recipe, seed, SLOW)
    return net


def hstu(bench: Bench, recipes: Recipes, seed: int) -> HSTU:
    """HSTU over the delayed clicks: beyond the paper."""
    torch.manual_seed(seed)
    recipe = recipes.hstu
    net = HSTU(HSTUConfig(recipe.dim, bench.protocol.history, dropout=recipe.dropout), bench.rows)
    bench.fit("HSTU", net, recipe, seed, SLOW)
    return net


def item2vec(bench: Bench, recipes: Recipes, seed: int) -> Item2Vec:
    """The mean of the device's last clicks: beyond the paper, and what the other nets' item tables start from."""
    return bench.item2vec(recipes.item2vec, seed, BOTH)[0]


def fm(bench: Bench, recipes: Recipes, seed: int) -> FM:
    """User and item."""
    return fitted_fm(bench, recipes, seed)[0]


def fitted_fm(bench: Bench, recipes: Recipes, seed: int) -> tuple[FM, str]:
    """FM and the identity of its fit."""
    torch.manual_seed(seed)
    net = FM(FMConfig(recipes.fm.dim), bench.rows, bench.users)
    return net, bench.fit("FM", net, recipes.fm, seed, BOTH)


def neumf(bench: Bench, recipes: Recipes, seed: int) -> NeuMF:
    """User and item."""
    return fitted_neumf(bench, recipes, seed)[0]


def fitted_neumf(bench: Bench, recipes: Recipes, seed: int) -> tuple[NeuMF, str]:
    """NeuMF and the identity of its fit."""
    torch.manual_seed(seed)
    net = NeuMF(NeuMFConfig(recipes.neumf.dim), bench.rows, bench.users)
    return net, bench.fit("NeuMF", net, recipes.neumf, seed, BOTH)


def gru4rec(bench: Bench, recipes: Recipes, seed: int) -> GRU4Rec:
    """The device's clicks."""
    return fitted_gru4rec(bench, recipes, seed)[0]


def fitted_gru4rec(bench: Bench, recipes: Recipes, seed: int) -> tuple[GRU4Rec, str]:
    """GRU4Rec and the identity of its fit."""
    net = new_gru4rec(bench, recipes, seed)
    return net, bench.fit("GRU4Rec", net, recipes.gru4rec, seed, BOTH)


def new_gru4rec(bench: Bench, recipes: Recipes, seed: int) -> GRU4Rec:
    """The net before it is fitted."""
    torch.manual_seed(seed)
    recipe = recipes.gru4rec
    config = GRU4RecConfig(recipe.dim, 2 * recipe.dim, bench.protocol.recent, recipe.dropout)
    return GRU4Rec(config, bench.rows)


def mingru(bench: Bench, recipes: Recipes, seed: int) -> MinGRU:
    """The device's clicks: beyond the paper."""
    torch.manual_seed(seed)
    recipe = recipes.mingru
    config = MinGRUConfig(recipe.dim, 2 * recipe.dim, length=bench.protocol.recent, dropout=recipe.dropout)
    net = MinGRU(config, bench.rows)
    bench.fit("minGRU", net, recipe, seed, BOTH)
    return net


def f2s(bench: Bench, recipes: Recipes, seed: int) -> F2S:
    """Eq. (5-6) with the r2 of the last exposures."""
    return fitted_f2s(bench, recipes, seed)[0]


def f2s_served(bench: Bench, recipes: Recipes, seed: int) -> F2S:
    """Eq. (5-6) with the r2 of the last closed window, fitted and judged."""
    return fitted_f2s(bench, recipes, seed, fresh=False)[0]


def fitted_f2s(bench: Bench, recipes: Recipes, seed: int, *, fresh: bool = True) -> tuple[F2S, str]:
    """F2S and the identity of its fit."""
    net = F2S(nets(bench, recipes.f2s, seed))
    return net, bench.fit("DIN w F2S", net, recipes.f2s, seed, SLOW, fresh=fresh)


def fast(bench: Bench, recipes: Recipes, seed: int) -> FastAlone:
    """Eq. (3-4) with an encoder of its own."""
    return fitted_fast(bench, recipes, seed)[0]


def fitted_fast(bench: Bench, recipes: Recipes, seed: int) -> tuple[FastAlone, str]:
    """The fast part alone and the identity of its fit."""
    net = FastAlone(nets(bench, recipes.fast, seed, symlog_priors=recipes.s2f.symlog_priors))
    return net, bench.fit("fast alone", net, recipes.fast, seed, BOTH)


def fast_tuned(bench: Bench, recipes: Recipes, seed: int) -> FastAlone:
    """The control of MC2-SF: the fast part alone gets the same second fit on the fast phase, without a cloud."""
    alone, after = fitted_fast(bench, recipes, seed)
    bench.fit("fast alone tuned", alone, recipes.s2f, seed, FAST, after=after)
    return alone


def mc2sf(bench: Bench, recipes: Recipes, seed: int) -> MC2SF:
    """Eq. (7-8) on top of F2S."""
    return fitted_mc2sf(bench, recipes, seed, fresh=True)


def mc2sf_served(bench: Bench, recipes: Recipes, seed: int) -> MC2SF:
    """The same with the r2 of the last closed window."""
    return fitted_mc2sf(bench, recipes, seed, fresh=False)


def fitted_mc2sf(bench: Bench, recipes: Recipes, seed: int, *, fresh: bool) -> MC2SF:
    """The fast part as fitted alone is introduced to the priors of a fitted F2S, which stays as it is."""
    alone, after_fast = fitted_fast(bench, recipes, seed)
    cloud, after_slow = fitted_f2s(bench, recipes, seed, fresh=fresh)
    start_from_fast_alone(alone.nets.fast)
    net = MC2SF(alone.nets, cloud)
    bench.fit("MC2-SF", net, recipes.s2f, seed, FAST, after=after_fast + after_slow, fresh=fresh)
    return net


POPULARITY_ROW = Row("popularity", lambda bench, _recipes, _seed: popularity(bench), ())
DIN_ROW = Row("DIN", din, ("din",))
SASREC_ROW = Row("SASRec", sasrec, ("sasrec",))
CASER_ROW = Row("Caser", caser, ("caser",))
HSTU_ROW = Row("HSTU", hstu, ("hstu",))
ITEM2VEC_ROW = Row("item2vec", item2vec, ("item2vec",))
FM_ROW = Row("FM", fm, ("fm",))
NEUMF_ROW = Row("NeuMF", neumf, ("neumf",))
GRU4REC_ROW = Row("GRU4Rec", gru4rec, ("gru4rec",))
MINGRU_ROW = Row("minGRU", mingru, ("mingru",))
F2S_ROW = Row("DIN w/ F2S", f2s, ("f2s",))
F2S_SERVED_ROW = Row("DIN w/ F2S, served", f2s_served, ("f2s",), fresh=False)
FAST_ROW = Row("fast alone", fast, ("fast", "s2f"))
FAST_TUNED_ROW = Row("fast alone, fine-tuned", fast_tuned, ("fast", "s2f"))
MC2SF_ROW = Row("MC2-SF", mc2sf, ("fast", "f2s", "s2f"))
MC2SF_SERVED_ROW = Row("MC2-SF, served", mc2sf_served, ("fast", "f2s", "s2f"), fresh=False)
