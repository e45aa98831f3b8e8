"""NDCG@10 against the bytes of the cloud's answers: priors in 32, 16, 8 and 4 bits, of lower rank, and none.

Run `python -m benchmarks.training.prior_bytes SOURCE`.

The retrains and clicks are those of `collaboration`. For each form of r_t and r_n the device computes S2F from what it
would receive, and its score is mixed with those of fast, F2S and the item neighbours; the weights are fitted on the
clicks of the interval before. A form of lower rank has the first principal components of 2,000 clicks before the
release, which the device would get with it. Seeds are averaged per click; intervals are those of a paired bootstrap
over users, of the difference to the form that is sent (16 bits).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import described
from benchmarks.training.collaboration import BATCH, OTHERS, Interval, Scores, compared, intervals, mixture
from benchmarks.training.increment import logged
from models.data.interaction_log import Ints
from models.mc2sf.nets import SHORT, Inputs, NetConfig, Nets
from models.training.minibatches import Batch, ClickSource

RESULT = Path(__file__).with_name("prior_bytes.json")
BASIS_CLICKS = 2000
RANKS = 16, 8, 4
SENT = "16 bits"
SCORE_BYTES = 4  # F2S's score, sent with the priors
Form = Callable[[Tensor, Tensor], Tensor]  # (prior, principal components) -> the prior as received


def quantised(bits: int) -> Form:
    """Return the form with a vector's values in `bits` bits, in units of its largest one."""

    def received(prior: Tensor, _components: Tensor) -> Tensor:
        largest = int(2 ** (bits - 1)) - 1
        unit = prior.abs().amax(-1, keepdim=True).clamp(min=1e-12) / largest
        return (prior / unit).round() * unit

    return received


def of_rank(rank: int) -> Form:
    """Return the form with the first `rank` principal components, in 16 bits."""

    def received(prior: Tensor, components: Tensor) -> Tensor:
        return (prior @ components[:, :rank]).half().float() @ components[:, :rank].T

    return received


def forms(dim: int) -> dict[str, tuple[int, Form]]:
    """Return the bytes of one prior of one candidate in each form, and the form."""
    return {
        "32 bits": (4 * dim, lambda prior, _: prior),
        SENT: (2 * dim, lambda prior, _: prior.half().float()),
        "8 bits": (dim + 2, quantised(8)),
        "4 bits": (dim // 2 + 2, quantised(4)),
        **{f"rank {rank}, 16 bits": (2 * rank, of_rank(rank)) for rank in RANKS},
    }


@torch.inference_mode()
def s2f_scores(nets: Nets, source: ClickSource, before: Ints) -> Callable[[Batch], Scores]:
    """Return S2F's scores of a batch for each form of the priors."""
    draw = np.random.default_rng(1)
    sample = draw.choice(before, min(BASIS_CLICKS, len(before)), replace=False)
    parts = [source.batch(sample[i : i + BATCH], draw, n=4) for i in range(0, len(sample), BATCH)]
    pairs = [_priors(nets, part.inputs(nets, nets.encoder.E[part.rows])) for part in parts]
    priors_of_kind = (torch.cat([prior.flatten(0, 1) for prior in kind]) for kind in zip(*pairs, strict=True))
    components = [torch.linalg.svd(priors, full_matrices=False).Vh.T for priors in priors_of_kind]

    def scores_of(batch: Batch) -> Scores:
        given = batch.inputs(nets, nets.encoder.E[batch.rows])
        r_t, r_n = _priors(nets, given)
        found = {}
        for name, (_, received) in forms(r_t.shape[-1]).items():
            priors = received(r_t, components[0]), received(r_n, components[1])
            score = nets.fast.score_s2f(nets.encoder.gru_n, given.clicks, given.exposures, given.e, *priors)
            found[f"s2f {name}"] = nets.encoder.add_floor(given.floor, given.repeats[SHORT], "mc2sf", score)
        return found

    return scores_of


def _priors(nets: Nets, given: Inputs) -> tuple[Tensor, Tensor]:
    return nets.priors(given.history, given.r2, given.e)


def answers(dim: int) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return the bytes per candidate of each answer of the cloud, and the scores that the device then mixes."""
    neighbours = "ease", "transitions"
    found: dict[str, tuple[int, tuple[str, ...]]] = {
        name: (2 * size + SCORE_BYTES, ("fast", f"s2f {name}", "f2s", *neighbours))
        for name, (size, _) in forms(dim).items()
    }
    found["no priors, F2S's score"] = SCORE_BYTES, ("fast", "f2s", *neighbours)
    found["no answer"] = 0, ("fast", *neighbours)
    found["no answer, no item neighbours"] = 0, ("fast",)
    return found


def main() -> None:
    """Rank with each answer, and write a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="as for `mc2sf run`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan, log = logged(options.source)
    seeds: list[list[Interval]] = []
    for seed in range(1, options.seeds + 1):
        seeds.append(list(intervals(log, plan.epochs, seed, s2f_scores)))
        print(f"seed {seed}: {sum(len(each.users) for each in seeds[-1])} clicks", flush=True)
    users = np.concatenate([each.users for each in seeds[0]])
    known = np.concatenate([each.both_known for each in seeds[0]])
    values = {
        name: np.mean([mixture(found, names) for found in seeds], 0)
        for name, (_, names) in answers(NetConfig().dim).items()
    }
    rows = []
    for name, (size, _) in answers(NetConfig().dim).items():
        row = {"answer": name, "bytes per 100 candidates": (1 + OTHERS) * size}
        row |= compared(users, known, values[name], values[SENT], 1, "minus 16 bits")
        rows.append(row)
        print(json.dumps(row), flush=True)
    result = {
        "data": options.source.partition(":")[0],
        "seeds": options.seeds,
        "clicks": {"all": len(users), "both known": int(known.sum())},
        "rows": rows,
        "machine": described(("torch", "numpy")),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
