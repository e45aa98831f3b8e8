"""The nets against the equations in plain loops, and which parts get gradients from which loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.data.catalogue import ROW_PADDING, ROW_UNKNOWN
from models.layers.gru import Gru
from models.layers.local_attention import _chunks, attention_weights
from models.layers.min_gru import MinGruCell
from models.layers.mlp import Mlp, PaddedVectors
from models.mc2sf.nets import DEVIATION, Inputs, NetConfig, Nets
from tests.support.naive_scores import fast_scores, gru, part, priors, slow_scores

CONFIG = NetConfig(dim=6, history_long=7, history_short=4, threshold=3, attention=(5, 4), gate=(5, 3), head=(6, 4))
LENGTHS = (7, 0, 3, 1)  # of the histories of four clicks


def lively(config: NetConfig = CONFIG, rows: int = 40, seed: int = 3) -> Nets:
    """Nets whose scores differ visibly: initial weights made larger, in double precision."""
    nets = Nets.initial(config, rows, seed).double()
    with torch.no_grad():
        for weight in nets.parameters():
            weight.mul_(3)
    return nets


def sequence(generator: torch.Generator, length: int, lengths: tuple[int, ...]) -> PaddedVectors:
    x = torch.randn(len(lengths), length, CONFIG.dim, generator=generator, dtype=torch.float64)
    mask = torch.arange(length)[None] >= length - torch.tensor(lengths)[:, None].clamp(max=length)
    return PaddedVectors(x * mask.unsqueeze(2), mask)


def inputs(seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    b, c = len(LENGTHS), 3
    return Inputs(
        history=sequence(generator, CONFIG.history_long, LENGTHS),
        r2=torch.randn(b, CONFIG.dim, generator=generator, dtype=torch.float64),
        clicks=sequence(generator, CONFIG.history_short, LENGTHS),
        exposures=sequence(generator, CONFIG.history_short, LENGTHS[::-1]),
        e=torch.randn(b, c, CONFIG.dim, generator=generator, dtype=torch.float64),
    )


def items(of: PaddedVectors, i: int) -> list[np.ndarray]:
    return [x.numpy() for x, real in zip(of.x[i], of.mask[i], strict=True) if real]


@pytest.mark.parametrize("product", [False, True])
def test_all_four_scores_equal_the_equations_written_in_plain_loops(*, product: bool) -> None:
    nets, given = lively(replace(CONFIG, slow_product=product, fast_product=not product)), inputs()
    w = {name: weight.detach().numpy() for name, weight in nets.named_parameters()}
    with torch.no_grad():
        scores = nets(given)
    for i in range(len(LENGTHS)):
        for c in range(given.e.shape[1]):
            e = given.e[i, c].numpy()
            r_t, r_n = priors(w, items(given.history, i), given.r2[i].numpy(), e)
            slow = slow_scores(w, r_t, r_n, e, product=product)
            sent = (prior.astype(np.float16).astype(np.float64) for prior in (r_t, r_n))
            fast = fast_scores(w, items(given.clicks, i), items(given.exposures, i), e, *sent, product=not product)
            found = [float(score[i, c]) for score in scores]
            assert found == pytest.approx([*slow, *fast], rel=1e-9, abs=1e-9)


def test_r2_is_gru_n_over_the_window_from_zero() -> None:
    nets, given = lively(), inputs()
    w = part({name: x.detach().numpy() for name, x in nets.named_parameters()}, "encoder.gru_n")
    r2 = nets.encoder.r2(given.exposures).detach().numpy()
    for i in range(len(LENGTHS)):
        np.testing.assert_allclose(r2[i], gru(w, items(given.exposures, i), np.zeros(CONFIG.dim)), atol=1e-12)


def test_the_gru_is_the_one_of_torch() -> None:
    ours, theirs = Gru(5).double(), torch.nn.GRU(5, 5, batch_first=True).double()
    with torch.no_grad():
        for mine, its in zip((ours.w_ih, ours.w_hh, ours.b_ih, ours.b_hh), theirs.parameters(), strict=True):
            mine.copy_(its)
    x, h = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 2, 5, dtype=torch.float64)
    encoded = ours.encode(x, torch.ones(3, 4, dtype=torch.bool), h)
    for c in range(2):
        last = theirs(x, h[:, c].unsqueeze(0).contiguous())[1][0]
        torch.testing.assert_close(encoded[:, c], last)
        torch.testing.assert_close(ours.step(x[:, 0], h[:, c]), theirs(x[:, :1], h[:, c][None].contiguous())[1][0])


def test_a_history_through_min_gru_is_its_steps_one_by_one() -> None:
    cell = MinGruCell(5).double()
    with torch.no_grad():
        cell.w_ih.normal_()
        cell.b_ih.normal_()
    x, h = torch.randn(4, 7, 5, dtype=torch.float64), torch.randn(4, 2, 5, dtype=torch.float64)
    mask = torch.arange(7) >= 7 - torch.tensor(LENGTHS)[:, None]
    encoded = cell.encode(x, mask, h)
    for i, length in enumerate(LENGTHS):
        state = h[i]
        for step in range(7 - length, 7):
            state = cell.step(x[i, step].expand(2, -1), state)
        torch.testing.assert_close(encoded[i], state)


def test_the_grus_gradient_by_hand_is_its_derivative() -> None:
    gru_p = Gru(3).double()
    for weight in gru_p.parameters():
        torch.nn.init.uniform_(weight, -1, 1)
    x = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]]).bool()
    assert torch.autograd.gradcheck(lambda x, h, *_: gru_p.encode(x, mask, h), (x, h, *gru_p.parameters()))


def naive_activation(unit: Mlp, history: Tensor, mask: Tensor, e: Tensor) -> Tensor:
    b, length, d = history.shape
    h, c = history.unsqueeze(2).expand(b, length, e.shape[1], d), e.unsqueeze(1).expand(b, length, e.shape[1], d)
    return unit(torch.cat([h, c, h * c], -1)) * mask.unsqueeze(2)


@pytest.mark.parametrize(
    ("candidates", "chunks"), [(2, [(42, 32)]), (40, [(2, 32), (2, 16)]), (100, [(1, 32), (1, 16)])]
)
def test_the_activation_unit_in_chunks_has_the_value_and_gradient_of_the_plain_one(
    candidates: int, chunks: list[tuple[int, int]]
) -> None:
    torch.manual_seed(1)
    unit, mask = Mlp(12, (5, 3)).double(), torch.arange(48)[None] >= torch.tensor([[48], [17], [41]])
    history = torch.randn(3, 48, 4, dtype=torch.float64, requires_grad=True)
    e = torch.randn(3, candidates, 4, dtype=torch.float64, requires_grad=True)
    cut = [(some.stop - some.start, real.stop - real.start) for some, real in _chunks(mask, e)]
    assert cut == chunks  # clicks, and the end of their history; the first click has none
    wanted, found = naive_activation(unit, history, mask, e), attention_weights(unit, history, mask, e)
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn(3, 48, candidates, dtype=torch.float64)
    through = [history, e, *unit.parameters()]
    for mine, its in zip(
        torch.autograd.grad((found * upstream).sum(), through),
        torch.autograd.grad((wanted * upstream).sum(), through),
        strict=True,
    ):
        torch.testing.assert_close(mine, its)


def reached(nets: Nets, score: Tensor) -> set[str]:
    """Return the names of modules that get a non-zero gradient from `score`."""
    nets.zero_grad(set_to_none=True)
    score.sum().backward(retain_graph=True)
    named = {name for name, w in nets.named_parameters() if w.grad is not None and bool(w.grad.abs().sum() > 0)}
    return {".".join(name.split(".")[:2]) for name in named}


SLOW_ALONE = {"slow.din", "slow.head_din"}
FAST_ALONE = {"encoder.gru_n", "fast.gru_p", "fast.gate_p", "fast.gate_n", "fast.head_fast"}
F2S = {"slow.din", "slow.w_s", "slow.head_f2s", "encoder.gru_n"}  # training the slow part also updates GRU_n
S2F = (FAST_ALONE - {"fast.head_fast"}) | {"fast.w0", "fast.w1", "fast.w2", "fast.head_s2f"}


@pytest.mark.parametrize(("which", "parts"), [("din", SLOW_ALONE), ("f2s", F2S), ("fast", FAST_ALONE), ("mc2sf", S2F)])
def test_each_loss_reaches_its_own_parts_and_no_others(which: str, parts: set[str]) -> None:
    nets = lively()
    assert reached(nets, getattr(nets(inputs()), which)) == parts


def test_an_uploaded_r2_and_received_priors_are_data() -> None:
    nets, given = lively(), inputs()
    given.r2.requires_grad_()
    given.history.x.requires_grad_()
    scores = nets(given)
    (scores.f2s.sum() + scores.mc2sf.sum()).backward(retain_graph=True)
    assert given.r2.grad is None
    given.history.x.grad = None
    scores.mc2sf.sum().backward()
    assert given.history.x.grad is None


def test_padding_changes_no_score_and_gets_no_gradient() -> None:
    nets, given = lively(), inputs()
    noisy = []
    for of in (given.history, given.clicks, given.exposures):
        x = torch.where(of.mask.unsqueeze(2), of.x, torch.randn_like(of.x)).requires_grad_()
        noisy.append(PaddedVectors(x, of.mask))
    scores = nets(Inputs(noisy[0], given.r2, noisy[1], noisy[2], given.e))
    for mine, its in zip(scores, nets(given), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)
    torch.stack(list(scores)).sum().backward()
    for of in noisy:
        assert of.x.grad is not None
        assert not of.x.grad[~of.mask].any()
        assert of.x.grad[of.mask].any()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, same, other = (Nets.initial(CONFIG, 12, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = one.keys() - {"encoder.standing"}  # which starts at zero
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_grown_nets_keep_every_old_row_and_weight_and_start_new_rows_near_the_unknown_one() -> None:
    nets = Nets.initial(CONFIG, 12, 1)
    grown = nets.grown(20, 5)
    assert torch.equal(grown.encoder.E[:12], nets.encoder.E)
    assert torch.equal(grown.slow.w_s.weight, nets.slow.w_s.weight)
    assert not grown.encoder.E[ROW_PADDING].any()
    distance = (grown.encoder.E[12:] - grown.encoder.E[ROW_UNKNOWN]).detach().abs()
    assert float(distance.min()) > 0
    assert float(distance.max()) < 5 * DEVIATION
    with pytest.raises(ValueError, match="can't become"):
        nets.grown(11, 5)
    with torch.no_grad():
        grown.encoder.E.add_(1)
    assert not torch.equal(grown.encoder.E[:12], nets.encoder.E)  # a copy, not a view
