"""Optimisers of a retrain: Adam, and the minimum of a function of a few weights."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from models.optimisers.adam import Adam
from models.optimisers.newton import minimum

USED = """
import sys, torch
from models.optimisers.adam import Adam
from models.optimisers.newton import minimum
from models.training.fit import FitConfig, fit
from models.training.retrain import retrain
weight = torch.ones(2, requires_grad=True)
(weight.square().sum() + minimum(lambda x: x.square().sum(), torch.ones(2)).sum()).backward()
Adam([weight], learning_rate=0.1, l2=0.0, betas=(0.9, 0.999)).step()
class Objective(torch.nn.Linear):
    def forward(self, batch):
        return super().forward(batch).square().sum()
fit(Objective(2, 1), lambda *_: [torch.ones(1, 2)], lambda: 1.0, FitConfig(epochs=1), 1)
sys.exit("torch._dynamo" in sys.modules)
"""


def test_adam_is_that_of_torch_and_leaves_weights_without_a_gradient_alone() -> None:
    torch.manual_seed(0)
    ours = [torch.randn(3, 2, requires_grad=True), torch.randn(4, requires_grad=True)]
    theirs = [weight.detach().clone().requires_grad_() for weight in ours]
    adam = Adam(ours, learning_rate=0.01, l2=0.1, betas=(0.8, 0.99))
    reference = torch.optim.Adam(theirs, lr=0.01, weight_decay=0.1, betas=(0.8, 0.99))
    for held in ((0, 1), (0,), (1,), (0, 1)):
        adam.rate = reference.param_groups[0]["lr"] = 0.01 / len(held)
        reference.zero_grad()
        for i in held:
            theirs[i].grad = torch.randn_like(theirs[i])
            ours[i].grad = theirs[i].grad.clone()
        adam.step()
        reference.step()
        assert all(weight.grad is None for weight in ours)
    torch.testing.assert_close(ours, theirs)


def _hill(x: Tensor) -> Tensor:
    """A function of three weights with a saddle at 0 and its minima at (+-1, 2, any)."""
    return (x[0].square() - 1).square() + (x[1] - 2).square()


@pytest.mark.parametrize("start", [[0.1, 0.0, 5.0], [3.0, -40.0, 0.0], [-0.01, 2.0, 1.0]])
def test_newton_finds_the_minimum_also_from_where_the_function_is_not_convex(start: list[float]) -> None:
    found = minimum(_hill, torch.tensor(start, dtype=torch.float64))
    assert _hill(found) < 1e-12
    assert found[2] == start[2]


def test_at_the_minimum_newton_stays() -> None:
    there = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert minimum(_hill, there).equal(there)


@pytest.mark.process
def test_no_compiler_is_loaded_by_a_process_that_trains() -> None:
    assert subprocess.run([sys.executable, "-c", USED], check=False).returncode == 0
