"""A training shared by processes under torchrun gives the same release as a single process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from models.data.catalogue import FIRST_ROW
from models.data.item_statistics import BUCKETS
from models.mc2sf.checkpoint import unpack as nets_of
from models.mc2sf.nets import Logits, NetConfig, Nets
from models.training.losses import joint_loss, sampled_softmax
from models.training.minibatches import Batch, to_batch
from streams.database import schema
from streams.database.engine import connect
from streams.model_config import net_config
from streams.releases import candidates
from streams.releases.candidates import ReleaseCandidate, unpack
from streams.retrain import job
from streams.retrain.job import Retrain
from streams.settings import Settings
from tests.support.releases import RunHarness
from tests.test_streams_retrain import few, record

SIZES = NetConfig(dim=8, history_long=6, history_short=4, threshold=3, attention=(8, 4), gate=(8, 4), head=(16, 8))
ROWS = 40
PROCESS = """
from streams.retrain import job as retrain
from streams.settings import Settings
retrain.main(Settings(), once=True)
"""


def batch_of(clicks: int) -> Batch:
    rng = np.random.default_rng(1)
    lengths = (SIZES.history_long, SIZES.threshold, SIZES.history_short, SIZES.history_short, 5)
    of = tuple(rng.integers(FIRST_ROW, ROWS, (clicks, n)) for n in lengths)
    return to_batch(of, rng.integers(0, BUCKETS, (clicks, 5, 3), np.uint8), ROWS, rng, 0.1)


@pytest.mark.parametrize("clicks", [1, 2, 7, 64])
def test_shares_of_a_batch_have_the_whole_batchs_loss_and_gradient(clicks: int) -> None:
    nets, batch = Nets.initial(SIZES, ROWS, 1), batch_of(clicks)

    def gradient(parts: list[tuple[Batch, float]]) -> list[torch.Tensor]:
        table = nets.encoder.E.detach()[batch.rows].requires_grad_()
        weights = [
            table,
            nets.encoder.standing,
            *nets.slow.parameters(),
            *nets.fast.parameters(),
            *nets.encoder.gru_n.parameters(),
        ]
        losses = [joint_loss(nets(part.inputs(nets, table)), sampled_softmax) * share for part, share in parts]
        total = torch.stack(losses).sum()
        return [total.detach(), *torch.autograd.grad(total, weights)]

    for whole, cut in zip(gradient([(batch, 1.0)]), gradient([batch.share(i, 3) for i in range(3)]), strict=True):
        torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.process
def test_two_processes_under_torchrun_make_the_release_of_one_to_1e_5(settings: Settings, tmp_path: Path) -> None:
    found: dict[str, tuple[ReleaseCandidate, dict[str, torch.Tensor]]] = {}
    engine = connect(settings.database.get_secret_value())
    for run, processes in (("t-one", 1), ("t-two", 2)):
        changes = {"run": run, "lockstep": False, "batch": 107, "retrain_passes": 3}
        harness = RunHarness(few(settings).model_copy(update=changes), engine)
        harness.act()
        record(harness, range(2))
        if processes == 1:
            Retrain(harness.settings, engine).make(1)
        else:
            under_torchrun(harness.settings, tmp_path, processes)
        found[run] = proposed(engine, harness.settings)
    (one, weights), (two, same) = found.values()
    assert (one.quality["trained"], one.quality["steps"]) == (107 + 1, 3 * 2), "the last batch has a click for two"
    assert two.quality["steps"] == one.quality["steps"]
    assert {name: weight.shape for name, weight in same.items()} == {name: w.shape for name, w in weights.items()}
    # there is no item with neighbours that E lacks
    empty = {name for name, weight in weights.items() if not weight.numel()}
    assert empty == {"fast.neighbours.keys"}
    assert torch.equal(same["fast.neighbours.rows"], weights["fast.neighbours.rows"])
    distance = {name: float((same[name] - w).abs().max()) for name, w in weights.items() if name not in empty}
    # move all scores alike, the second if its unit is open for all: the softmax has no gradient there, and its rounding
    # is all that Adam steps by
    unseen = [name for name in distance if "head" in name and name.endswith(("last.bias", "second.bias"))]
    assert len(unseen) == 2 * len(Logits._fields)
    assert max(distance[name] for name in distance if name not in unseen) < 1e-5, distance
    assert max(distance[name] for name in unseen) < 1e-3, distance
    for loss in ("active", "candidate"):
        assert two.quality[loss] == pytest.approx(one.quality[loss], abs=1e-5)


def under_torchrun(settings: Settings, folder: Path, processes: int) -> None:
    """Run one retrain as an operator does."""
    script = folder / "process.py"
    script.write_text(PROCESS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    root = Path(job.__file__).parents[2]
    environment = settings.environment() | {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, script], env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr


def proposed(engine: Engine, settings: Settings) -> tuple[ReleaseCandidate, dict[str, torch.Tensor]]:
    """Return the only release candidate of a run, and its weights."""
    with engine.connect() as connection:
        (proposal,) = candidates.read(connection, settings.run, schema.proposals.c.kind == "retrain")
    entries = unpack(proposal.data)
    E = np.frombuffer(entries["E"], dtype="<f4").reshape(-1, settings.dim)
    return proposal, nets_of(net_config(settings), entries, E).state_dict()
