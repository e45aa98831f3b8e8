"""Laws of every net, written once: each net in the list at the top is tested against all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from models.baselines.caser import Caser, CaserConfig
from models.baselines.dccl import Dccl
from models.baselines.fm import FM, FMConfig
from models.baselines.gru4rec import GRU4Rec, GRU4RecConfig
from models.baselines.hstu import HSTU
from models.baselines.item2vec import Item2Vec, Item2VecConfig
from models.baselines.mingru import MinGRU, MinGRUConfig
from models.baselines.neumf import NeuMF, NeuMFConfig
from models.baselines.sasrec import SASRec, SASRecConfig
from models.baselines.sequential import Sequential
from models.baselines.two_stage import HINTS, InformedSequential, TwoStage
from models.data.catalogue import FIRST_ROW, ROW_PADDING
from models.data.queries import Queries, delayed, recent
from models.evaluation.metrics import metrics, rank
from models.layers.hstu_block import HSTUConfig
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.variants import DIN, F2S, MC2SF, FastAlone, Variant
from models.training import losses
from models.training.fit import FitConfig, fit
from models.training.objectives import ListBatch, ListObjective, SequenceBatch, SequenceObjective

ITEMS, USERS, LENGTH = 30, 40, 12
ROWS = FIRST_ROW + ITEMS
Build = Callable[[], nn.Module]

# variants with parts that are not in the paper: their inputs and gradients are those of the plain variants
PRODUCT, HSTUS, MIN_GRUS, BOTH = " with product", " with HSTU", " with minGRU", " with both"
SIZES = NetConfig(dim=8, history_long=LENGTH, history_short=5, threshold=4, attention=(8, 4), gate=(8, 4), head=(8, 4))


def variant(kind: type[Variant], *, product: bool = False, **more: Any) -> Variant:
    sizes = replace(SIZES, slow_product=product, fast_product=product, **more)
    return kind(Nets.initial(sizes, ROWS, int(torch.randint(1 << 30, ()))))


SEQUENTIAL: dict[str, Callable[[], Sequential]] = {
    "sasrec": lambda: SASRec(SASRecConfig(dim=8, length=LENGTH, heads=2), ROWS),
    "caser": lambda: Caser(CaserConfig(dim=8, length=LENGTH, horizontal=4, vertical=2), ROWS),
    "hstu": lambda: HSTU(HSTUConfig(dim=8, length=LENGTH, heads=2), ROWS),
    "gru4rec": lambda: GRU4Rec(GRU4RecConfig(dim=8, hidden=8, length=LENGTH), ROWS),
    "item2vec": lambda: Item2Vec(Item2VecConfig(dim=8, length=LENGTH, span=3), ROWS),
    "mingru": lambda: MinGRU(MinGRUConfig(dim=8, hidden=8, length=LENGTH), ROWS),
}
NETS: dict[str, Build] = {
    **SEQUENTIAL,
    "din": partial(variant, DIN),
    "f2s": partial(variant, F2S),
    "fast": partial(variant, FastAlone),
    "mc2sf": partial(variant, MC2SF),
    "f2s" + PRODUCT: partial(variant, F2S, product=True),
    "mc2sf" + PRODUCT: partial(variant, MC2SF, product=True),
    "din" + HSTUS: partial(variant, DIN, history_layers=2),
    "f2s" + BOTH: partial(variant, F2S, history_layers=2, min_gru=True),
    "fast" + MIN_GRUS: partial(variant, FastAlone, min_gru=True, head=(16, 8)),  # (8, 4) may be dead from the start
    "mc2sf" + BOTH: partial(variant, MC2SF, history_layers=2, min_gru=True),
    "mc2sf with symlog": partial(variant, MC2SF, symlog_priors=True),
    "mc2sf of a cloud": lambda: MC2SF(variant(MC2SF).nets, cast(F2S, variant(F2S))),
    "gru4rec dccl": lambda: Dccl(GRU4Rec(GRU4RecConfig(dim=8, hidden=8, length=LENGTH), ROWS), USERS),
    "fm": lambda: FM(FMConfig(dim=8), ROWS, USERS),
    "neumf": lambda: NeuMF(NeuMFConfig(dim=8, hidden=(8, 4)), ROWS, USERS),
    "din+fm": lambda: TwoStage(variant(DIN), FM(FMConfig(8, hints=HINTS), ROWS, USERS)),
    "din+neumf": lambda: TwoStage(variant(DIN), NeuMF(NeuMFConfig(8, (8, 4), hints=HINTS), ROWS, USERS)),
    "din+gru4rec": lambda: TwoStage(
        variant(DIN), InformedSequential(GRU4Rec(GRU4RecConfig(dim=8, hidden=8, length=LENGTH), ROWS))
    ),
}


def plain(name: str) -> str:
    """Return the name of a net without its parts that are not in the paper."""
    return name.partition(" with ")[0]


def built(name: str, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return NETS[name]()


def padded(generator: np.random.Generator, n: int, length: int) -> Tensor:
    rows = generator.integers(FIRST_ROW, ROWS, (n, length))
    rows[np.arange(length) < generator.integers(0, length + 1, (n, 1))] = ROW_PADDING
    return torch.from_numpy(rows)


def some_queries(n: int = 6, seed: int = 0) -> tuple[Queries, Tensor]:
    generator = np.random.default_rng(seed)
    queries = Queries(
        users=torch.from_numpy(generator.integers(0, USERS, n)),
        history=padded(generator, n - 2, LENGTH),
        history_index=torch.from_numpy(generator.integers(0, n - 2, n)),
        clicks=padded(generator, n, LENGTH),
        exposures=padded(generator, n, 5),
        window=padded(generator, n, 4),
    )
    return queries, torch.from_numpy(generator.integers(FIRST_ROW, ROWS, (n, 7)))


@pytest.fixture(params=NETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SEQUENTIAL)
def sequential(request: pytest.FixtureRequest) -> Sequential:
    torch.manual_seed(1)
    return SEQUENTIAL[request.param]().eval()


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_prediction_is_pure(name: str) -> None:
    net = built(name).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    first, again = net(*some_queries()), net(*some_queries())
    assert torch.equal(first, again)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_scores_have_one_number_a_candidate_and_differ(name: str) -> None:
    queries, items = some_queries()
    scores = built(name).eval()(queries, items)
    assert scores.shape == items.shape
    assert scores.isfinite().all()
    assert len(scores.unique()) > items.numel() // 3


def test_a_batch_scores_as_one_query_at_a_time(name: str) -> None:
    net = built(name).eval()
    queries, items = some_queries()
    alone = [net(queries[i : i + 1], items[i : i + 1]) for i in range(len(queries))]
    close(net(queries, items), torch.cat(alone))


def test_a_candidate_scores_the_same_in_any_list(name: str) -> None:
    net = built(name).eval()
    queries, items = some_queries()
    alone = [net(queries, items[:, i : i + 1]) for i in range(items.shape[1])]
    close(net(queries, items), torch.cat(alone, 1))


def test_padding_never_changes_a_score(name: str) -> None:
    net = built(name).eval()
    queries, items = some_queries()
    wider = replace(
        queries,
        **{
            part: torch.nn.functional.pad(getattr(queries, part), (3, 0), value=ROW_PADDING)
            for part in ("history", "clicks", "exposures", "window")
        },
    )
    close(net(queries, items), net(wider, items))


def test_the_padding_row_has_no_influence(name: str) -> None:
    """Whatever vector the padding row holds, no score changes."""
    net = built(name).eval()
    queries, items = some_queries()
    before = net(queries, items)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Embedding) and module.num_embeddings == ROWS:
                assert not module.weight[ROW_PADDING].any()
            if isinstance(module, Nets):
                module.encoder.E[ROW_PADDING] = 9.0
    close(before, net(queries, items))


def test_later_items_never_change_a_state(sequential: Sequential) -> None:
    generator = np.random.default_rng(3)
    rows = torch.from_numpy(generator.integers(FIRST_ROW, ROWS, (4, LENGTH)))
    before = sequential.states(rows)
    for position in range(1, LENGTH):
        changed = rows.clone()
        changed[:, position:] = torch.from_numpy(generator.integers(FIRST_ROW, ROWS, (4, LENGTH - position)))
        close(sequential.states(changed)[:, :position], before[:, :position])
        assert not torch.allclose(sequential.states(changed)[:, -1], before[:, -1])


def test_saved_and_loaded_it_scores_the_same(name: str) -> None:
    net, other = built(name).eval(), built(name, seed=2).eval()
    queries, items = some_queries()
    assert not torch.equal(net(queries, items), other(queries, items))
    other.load_state_dict(load(save(net.state_dict())))
    assert torch.equal(net(queries, items), other(queries, items))


def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    nets = [learnt(name, *cycles(), epochs=1)[0] for _ in range(2)]
    for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


# what reads what ----------------------------------------------------------------------------------------------------

SEES = {
    "sasrec": {"history"},
    "caser": {"history"},
    "hstu": {"history"},
    "gru4rec": {"clicks"},
    "mingru": {"clicks"},
    "item2vec": {"clicks"},
    "din": {"history"},
    "f2s": {"history", "window"},
    "fast": {"clicks", "exposures"},
    "mc2sf": {"history", "window", "clicks", "exposures"},
    "mc2sf of a cloud": {"history", "window", "clicks", "exposures"},
    "gru4rec dccl": {"clicks"},  # no patch is fitted yet
    "fm": {"users"},
    "neumf": {"users"},
    "din+fm": {"users", "history"},
    "din+neumf": {"users", "history"},
    "din+gru4rec": {"clicks", "history"},
}


def test_a_net_sees_what_its_side_has_and_no_more(name: str) -> None:
    net = built(name).eval()
    queries, items = some_queries(12)
    before = net(queries, items)
    other, _ = some_queries(12, seed=5)
    changed = {
        part
        for part in ("users", "history", "clicks", "exposures", "window")
        if not torch.allclose(net(replace(queries, **{part: getattr(other, part)}), items), before, atol=1e-6)
    }
    assert changed == SEES[plain(name)]


def test_every_trainable_weight_gets_a_gradient(name: str) -> None:
    net = built(name).train()
    queries, items = some_queries(16)
    losses.bce(net(queries, items)).backward()
    without = {key for key, p in net.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())}
    nets = {
        "din": {"encoder.gru_n", "slow.w_s", "slow.head_f2s", "fast"},
        "f2s": {"slow.head_din", "fast"},
        "fast": {"slow", "fast.w0", "fast.w1", "fast.w2", "fast.head_s2f"},
        "mc2sf": {"slow", "fast.head_fast"},
        "mc2sf of a cloud": {"slow", "fast.head_fast"},
    }.get(plain(name), {"encoder.gru_n", "slow.w_s", "slow.head_f2s", "fast"} if name.startswith("din+") else set())
    parts = {"slow.nets." + part for part in ("encoder", "slow", "fast")} if name.startswith("din+") else set()
    parts |= {"cloud", "backbone"}
    of_stream = {"encoder.standing"}  # queries carry no item statistics: they are trained in the stream
    stops = parts | {"nets." + part for part in nets | of_stream}
    dead_gates = {key for key in without if key.endswith((".bias", "last.bias"))}  # a ReLU may be off for all of them
    assert {key for key in without - dead_gates if not any(key.startswith(stop) for stop in stops)} == set()
    assert {key for key, _ in net.named_parameters() if any(key.startswith(stop) for stop in stops)} <= without


def test_r2_is_data_for_the_slow_part() -> None:
    """Items that are in the window only get no gradient from F2S."""
    net = built("f2s")
    assert isinstance(net, F2S)
    queries, items = some_queries()
    queries = replace(queries, history=queries.history.clamp(max=10), window=torch.full((6, 4), 20))
    net(queries, items.clamp(max=10)).sum().backward()
    gradient = net.nets.encoder.E.grad
    assert gradient is not None
    assert gradient[FIRST_ROW:11].any()
    assert not gradient[20].any()


def test_r_t_and_r_n_are_data_for_the_fast_part() -> None:
    """Items that are in the long history only get no gradient from S2F, and the slow part gets none at all."""
    net = built("mc2sf")
    assert isinstance(net, MC2SF)
    queries, items = some_queries()
    low = {part: getattr(queries, part).clamp(max=10) for part in ("clicks", "exposures", "window")}
    net(replace(queries, history=torch.full_like(queries.history, 20), **low), items.clamp(max=10)).sum().backward()
    gradient = net.nets.encoder.E.grad
    assert gradient is not None
    assert gradient[FIRST_ROW:11].any()
    assert not gradient[20].any()
    assert all(p.grad is None for p in net.nets.slow.parameters())


def loss_and_gradients(name: str, *, bf16: bool) -> tuple[float, dict[str, Tensor]]:
    net = built(name).eval()
    queries, items = some_queries(16)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = ListObjective(net, losses.sampled_softmax)(
            ListBatch(queries, items, torch.zeros(items.shape), items < 0)
        )
    loss.backward()
    return loss.item(), {key: p.grad for key, p in net.named_parameters() if p.grad is not None}


def test_with_bf16_losses_and_gradients_are_nearly_the_same(name: str) -> None:
    loss, gradients = loss_and_gradients(name, bf16=False)
    halved, of_halved = loss_and_gradients(name, bf16=True)
    assert halved == pytest.approx(loss, rel=0.02)
    assert of_halved.keys() == gradients.keys()
    a, b = (torch.cat([each[key].flatten() for key in gradients]) for each in (gradients, of_halved))
    assert torch.equal(a, b) == (name == "fm")  # which has no matrix product
    assert torch.cosine_similarity(a, b, 0) > (0.9 if name.endswith((HSTUS, BOTH)) else 0.99)  # more layers round more


def test_it_computes_where_its_data_are(name: str) -> None:
    """Tensors created without a device argument would be on the meta device here, and mixing would fail."""
    queries, items = some_queries()
    net, reference = built(name).eval(), built(name).eval()
    log_q, hidden = torch.zeros(items.shape), items < 0
    expected = ListObjective(reference, losses.sampled_softmax)(ListBatch(queries, items, log_q, hidden))
    expected.backward()
    with torch.device("meta"):
        loss = ListObjective(net, losses.sampled_softmax)(ListBatch(queries, items, log_q, hidden))
        loss.backward()
    assert torch.equal(loss, expected)
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while it traces
@pytest.mark.slow
def test_a_compiled_net_scores_and_learns_the_same() -> None:
    queries, items = some_queries()
    torch.compiler.reset()
    eager, net = built("f2s").eval(), built("f2s").eval()
    scores, again = eager(queries, items), torch.compile(net, backend="aot_eager", dynamic=True)(queries, items)
    close(scores, again)
    for each in (scores, again):
        losses.bce(each).backward()
    for a, b in zip(eager.parameters(), net.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            close(a.grad, b.grad)


# learning -----------------------------------------------------------------------------------------------------------


def cycles() -> tuple[np.ndarray, np.ndarray]:
    """Return sequences [USERS, LENGTH + 1] in which each user walks through a third of the items, and the users."""
    users = np.arange(USERS)
    group, start = users % 3, users // 3
    walk = (start[:, None] + np.arange(LENGTH + 1)) % (ITEMS // 3)
    return FIRST_ROW + group[:, None] * (ITEMS // 3) + walk, users


def noise() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(9).integers(FIRST_ROW, ROWS, (USERS, LENGTH + 1)), np.arange(USERS)


def before(sequences: np.ndarray, users: np.ndarray, position: np.ndarray) -> Queries:
    """Return the queries before item `position` of each user."""
    reach = np.arange(-LENGTH, 0) + position[:, None]
    known = np.where(reach >= 0, sequences[users[:, None], np.maximum(reach, 0)], ROW_PADDING)
    known = torch.from_numpy(known)
    return Queries(torch.from_numpy(users), known, torch.arange(len(users)), known, known[:, -5:], known[:, -4:])


def learnt(
    name: str, sequences: np.ndarray, users: np.ndarray, epochs: int, rate: float = 0.01
) -> tuple[nn.Module, float]:
    """Return a net fitted to all but the last item of each user, and its NDCG@10 on that among all items."""
    net = built(name)

    def lists(_: int, generator: np.random.Generator) -> list[ListBatch]:
        chosen = generator.permutation(np.repeat(users, LENGTH - 2))
        position = generator.integers(2, LENGTH, len(chosen))
        negatives = generator.integers(FIRST_ROW, ROWS, (len(chosen), 6))
        items = torch.from_numpy(np.concatenate([sequences[chosen, position][:, None], negatives], 1))
        hidden = items == items[:, :1]
        hidden[:, 0] = False
        parts, log_q = [slice(start, None, 8) for start in range(8)], torch.zeros(items.shape)
        queries = before(sequences, chosen, position)
        return [ListBatch(queries[part], items[part], log_q[part], hidden[part]) for part in parts]

    def walks(_: int, generator: np.random.Generator) -> list[SequenceBatch]:
        order = torch.from_numpy(generator.permutation(users))
        rows = torch.from_numpy(sequences)[order]
        negatives = torch.from_numpy(generator.integers(FIRST_ROW, ROWS, 16))
        hidden = torch.zeros(USERS, 16).bool()
        parts = [slice(start, None, 2) for start in range(2)]
        return [
            SequenceBatch(rows[part, :-2], rows[part, 1:-1], negatives, torch.zeros(16), hidden[part]) for part in parts
        ]

    everything = torch.arange(FIRST_ROW, ROWS).expand(len(users), -1)

    def score() -> float:
        scores = net(before(sequences, users, np.full(len(users), LENGTH)), everything).numpy()
        ranks = [rank(scores[u], sequences[u, LENGTH] - FIRST_ROW).rank for u in users]
        return metrics(ranks)["ndcg@10"]

    later = partial(next, count(0.0))  # the last epoch is the best
    config = FitConfig(learning_rate=rate, epochs=epochs, patience=epochs)
    if isinstance(net, Sequential):
        fit(SequenceObjective(net, losses.sampled_softmax), walks, later, config, seed=1)
    else:
        fit(ListObjective(net, losses.sampled_softmax), lists, later, config, seed=1)
    with torch.inference_mode():
        return net.eval(), score()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETS.keys() - {"gru4rec dccl"}))  # a patch alone is too small for it
def test_what_can_be_learnt_is_learnt(name: str) -> None:
    """A net that knows the user's third, but not the position in it (FM, NeuMF, DIN, item2vec), gets 0.45."""
    ordered = "clicks" in SEES[plain(name)] and name != "item2vec"
    assert learnt(name, *cycles(), epochs=12, rate=0.04)[1] > (0.6 if ordered else 0.4)


def test_noise_is_not_learnt(name: str) -> None:
    assert learnt(name, *noise(), epochs=4)[1] < 0.3  # chance is 0.15


def test_both_sides_are_named_functions_of_the_queries() -> None:
    queries, _ = some_queries()
    assert delayed(queries)[0] is queries.history
    assert recent(queries)[0] is queries.clicks
