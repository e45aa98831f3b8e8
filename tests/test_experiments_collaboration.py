from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploy.experiments.data.protocol import Phase
from deploy.experiments.training.composite_models import FEDAVG_MODEL
from deploy.experiments.training.hyperparameters import Hyperparameters, HyperparameterSet
from deploy.experiments.training.minibatches import of_devices, of_sequences
from models.baselines.dccl import Dccl
from models.baselines.fedavg import FedAvg, FedAvgConfig
from models.baselines.gru4rec import GRU4Rec, GRU4RecConfig
from models.evaluation.metrics import metrics
from models.layers.mlp import PaddedVectors, symlog
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.variants import F2S, MC2SF, FastAlone, start_from_fast_alone
from models.training.objectives import SequenceBatch
from tests.support.experiments import dataset, trainer
from tests.test_models_laws import ROWS, SIZES, USERS, some_queries


class Line(nn.Module):
    """(w x - y)^2 over a device's points."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))

    def forward(self, points: Tensor) -> Tensor:
        return (self.w * points[:, 0] - points[:, 1]).square().mean()


def points(*pairs: tuple[float, float]) -> Tensor:
    return torch.tensor(pairs)


def gradient(devices: list[Tensor], config: FedAvgConfig) -> float:
    line = Line()
    FedAvg(line, config)(devices).backward()
    assert line.w.grad is not None
    return float(line.w.grad)


def test_with_one_step_a_round_is_a_gradient_step_on_all_clicks() -> None:
    devices = [points((1, 2), (2, 1)), points((3, 5))]
    line = Line()
    line(torch.cat(devices)).backward()
    assert line.w.grad is not None
    rate = 0.1
    assert abs(gradient(devices, FedAvgConfig(rate, steps=1)) - rate * float(line.w.grad)) < 1e-5


def test_more_steps_go_further_on_each_device_from_the_server_s_weights() -> None:
    rate, w = 0.1, 1.0
    for _ in range(3):
        w -= rate * 2 * (w * 1 - 2) * 1
    assert abs(gradient([points((1, 2))], FedAvgConfig(rate, steps=3)) - (1.0 - w)) < 1e-6


def test_a_round_computes_where_the_weights_are() -> None:
    line, devices = Line(), [points((1, 2))]
    with torch.device("meta"):  # where nothing has data
        FedAvg(line, FedAvgConfig())(devices).backward()
    assert line.w.grad is not None
    assert float(line.w.grad) == gradient(devices, FedAvgConfig())


def test_a_round_leaves_the_server_s_weights_as_they_are() -> None:
    line = Line()
    loss = FedAvg(line, FedAvgConfig())([points((1, 2)), points((1, 0))])
    assert line.w.tolist() == [1.0]
    assert loss.item() == 1.0


def test_devices_hold_a_stretch_of_one_user_each_and_all_of_them_take_part(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    single = of_sequences(data, Hyperparameters(batch=1, negatives=4, block=1), (Phase.SLOW,), 8)
    rounds = list(of_devices(single, 5)(0, np.random.default_rng(1)))
    assert all(len(some) == 5 for some in rounds[:-1])
    alone = list(single(0, np.random.default_rng(1)))
    assert sum(map(len, rounds)) == len(alone)
    assert all(isinstance(batch, SequenceBatch) and len(batch.sequences) == 1 for batch in alone)


@pytest.mark.slow
def test_averaged_weights_learn_what_the_devices_know(tmp_path: Path) -> None:
    one = trainer(tmp_path, users=30)
    hyperparameters = HyperparameterSet(
        gru4rec=Hyperparameters(dim=16), federated=replace(HyperparameterSet().federated, negatives=16, epochs=12)
    )
    found = metrics(one.ranks(FEDAVG_MODEL.fit(one, hyperparameters, 1)))
    assert found["ndcg@10"] > 0.6  # chance is 0.22


def backbone() -> GRU4Rec:
    torch.manual_seed(1)
    return GRU4Rec(GRU4RecConfig(dim=8, hidden=8, length=12), ROWS).eval()


def test_a_fresh_patch_changes_nothing() -> None:
    net = backbone()
    queries, items = some_queries()
    assert torch.equal(Dccl(net, USERS)(queries, items), net(queries, items))


def test_a_patch_is_its_user_s_alone_and_the_backbone_learns_nothing() -> None:
    patched = Dccl(backbone(), USERS)
    queries, items = some_queries()
    before = patched(queries, items)
    user = int(queries.users[0])
    with torch.no_grad():
        patched.patches.weight[user] += 1.0
    changed = (patched(queries, items) != before).any(1)
    assert torch.equal(changed, queries.users == user)
    patched(queries, items).sum().backward()
    assert {name for name, p in patched.named_parameters() if p.grad is not None} == {"patches.weight"}


# the fast part introduced to the cloud ------------------------------------------------------------------------------


def nets(seed: int, config: NetConfig = SIZES) -> Nets:
    return Nets.initial(config, ROWS, seed)


def test_introduced_with_no_share_it_scores_as_it_does_alone() -> None:
    of_fast = nets(1)
    queries, items = some_queries()
    alone = FastAlone(of_fast)(queries, items)
    start_from_fast_alone(of_fast.fast, share=0.0)
    torch.testing.assert_close(MC2SF(of_fast, F2S(nets(2)))(queries, items), alone)


def test_introduced_it_learns_from_the_priors_and_the_cloud_stays() -> None:
    of_fast, cloud = nets(1), F2S(nets(2))
    start_from_fast_alone(of_fast.fast)
    net = MC2SF(of_fast, cloud)
    queries, items = some_queries(16)
    net(queries, items).sum().backward()
    for layer in (of_fast.fast.w0, of_fast.fast.w1, of_fast.fast.w2, of_fast.fast.head_s2f.first):
        assert layer.weight.grad is not None
        assert layer.weight.grad.any()
    assert all(p.grad is None for p in cloud.parameters())


def test_large_priors_arrive_small_and_small_ones_as_they_are() -> None:
    priors = torch.tensor([-60.0, -0.01, 0.0, 0.01, 60.0])
    torch.testing.assert_close(
        symlog(priors), torch.tensor([-4.1109, -0.00995, 0.0, 0.00995, 4.1109]), rtol=1e-4, atol=0
    )
    nets_of = [nets(1, replace(SIZES, symlog_priors=symlogged)).fast for symlogged in (False, True)]
    gru_n, e = nets(1).encoder.gru_n, torch.ones(1, 2, SIZES.dim)
    short = PaddedVectors(e, torch.ones(1, 2, dtype=torch.bool))
    for scale, near in ((1e-4, True), (50.0, False)):
        plain, symlogged = (fast.score_s2f(gru_n, short, short, e, scale * e, scale * e) for fast in nets_of)
        assert torch.allclose(plain, symlogged, rtol=1e-3, atol=1e-6) is near


def test_the_cloud_s_own_version_gives_the_priors() -> None:
    of_fast = nets(1)
    queries, items = some_queries()
    one, other = (MC2SF(of_fast, F2S(nets(seed)))(queries, items) for seed in (2, 3))
    assert not torch.allclose(one, other)
    same = MC2SF(of_fast, F2S(of_fast))(queries, items)
    torch.testing.assert_close(same, MC2SF(of_fast)(queries, items))
