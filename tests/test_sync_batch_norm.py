"""Batch norm over ranks: what one layer makes of all batches together, each rank has of its own."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError
from tinygrad_bn.nn.bn_tools import Communicator, run_ranks, sync_batch_norm
from tinygrad_bn.nn.utils import update_bn

Array = np.ndarray[Any, Any]


def parts_of(sizes: tuple[int, ...], channels: int, rest: tuple[int, ...], dtype: str, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=(n, channels, *rest)) * 2 + 1, dtype) for n in sizes]


def step(layer: Any, x: Array, cotangent: Array, second: Array | None = None) -> dict[str, Array]:
    """What one training step of a layer gives, and the derivative of its input's gradient along a direction."""
    given_ = tb.tensor(x, requires_grad=True)
    y = layer(given_)
    found = {"y": y.detach().numpy()}
    parameters = [p for p in (layer.weight, layer.bias) if p is not None]
    gradients = tb.grad(y, [given_, *parameters], tb.tensor(cotangent), create_graph=second is not None)
    for name, g in zip(("gx", "gweight", "gbias"), gradients, strict=False):
        found[name] = g.detach().numpy()
    if second is not None:
        found["hx"] = tb.grad(gradients[0], given_, tb.tensor(second))[0].numpy()
    if layer.running_mean is not None:
        found["running_mean"], found["running_var"] = layer.running_mean.numpy(), layer.running_var.numpy()
    return found


def together(results: list[dict[str, Array]]) -> dict[str, Array]:
    """The ranks' results as one layer would have them."""
    out = {}
    for name in results[0]:
        values = [r[name] for r in results]
        if name in ("y", "gx", "hx"):
            out[name] = np.concatenate(values)
        elif name.startswith("running"):
            assert all(v.tobytes() == values[0].tobytes() for v in values), "the ranks differ"
            out[name] = values[0]
        else:
            out[name] = np.sum(values, 0)
    return out


def compare(sizes: tuple[int, ...], inner: tuple[int, ...], dtype: str, seed: int, **options: Any) -> None:
    """Ranks with batches of these sizes against one layer; ``inner``: channels and what follows."""
    channels, *rest = inner
    xs, gs, hs = (parts_of(sizes, channels, tuple(rest), dtype, seed + i) for i in range(3))
    kind = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[len(rest)]
    plain = kind(channels, dtype=dtype, **options)
    with tb.no_grad():
        for i, p in enumerate(plain.parameters()):
            p.copy_(tb.tensor(np.random.default_rng(i).normal(size=channels)))
    want = step(copy.deepcopy(plain), np.concatenate(xs), np.concatenate(gs), np.concatenate(hs))

    def rank(ranks: Communicator) -> dict[str, Array]:
        layer = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain), ranks)
        return step(layer, *(a[ranks.rank] for a in (xs, gs, hs)))

    found = together(run_ranks(len(sizes), rank))
    assert found.keys() == want.keys()
    for name, value in want.items():
        size = max(float(np.abs(value).max(initial=0)), 1.0)
        np.testing.assert_allclose(
            found[name], value, rtol=0, atol=size * (1e-12 if dtype == "float64" else 2e-5), err_msg=name
        )


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(lambda n: sum(n) > 2),
    st.integers(1, 4),
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 1000),
)
@settings(max_examples=25)
def test_ranks_make_of_parts_what_one_layer_makes_of_the_whole(
    sizes: list[int], channels: int, rest: list[int], dtype: str, seed: int
) -> None:
    """Output, gradients, second derivatives, running statistics; with batches of one sample and of none."""
    compare(tuple(sizes), (channels, *rest), dtype, seed)


@pytest.mark.parametrize(
    "options",
    [
        {"affine": False},
        {"bias": False},
        {"momentum": None},
        {"track_running_stats": False},
        {"running_var": "biased"},
        {"activation": "relu"},
        {"activation": "sigmoid", "eps": 0.1},
    ],
)
def test_options(options: dict[str, Any]) -> None:
    compare((3, 1, 4), (3, 2), "float64", 5, **options)


@pytest.mark.peers
def test_follows_pytorch_on_the_whole_batch() -> None:
    torch = pytest.importorskip("torch")
    xs, gs = parts_of((3, 1, 4), 3, (2, 5), "float64"), parts_of((3, 1, 4), 3, (2, 5), "float64", 1)
    theirs = torch.nn.BatchNorm2d(3, dtype=torch.float64)
    x = torch.tensor(np.concatenate(xs), requires_grad=True)
    y = theirs(x)
    y.backward(torch.from_numpy(np.concatenate(gs)))

    def rank(ranks: Communicator) -> dict[str, Array]:
        return step(nn.SyncBatchNorm(3, process_group=ranks, dtype="float64"), xs[ranks.rank], gs[ranks.rank])

    found = together(run_ranks(3, rank))
    want = {"y": y, "gx": x.grad, "gweight": theirs.weight.grad, "gbias": theirs.bias.grad}
    want |= {name: getattr(theirs, name) for name in ("running_mean", "running_var")}
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value.detach().numpy(), rtol=0, atol=1e-12)


def test_a_large_mean_costs_no_precision() -> None:
    xs = [a + np.float32(1e6) for a in parts_of((64, 50, 30), 2, (3,), "float32")]
    wide = np.concatenate(xs).astype(np.float64)
    want = (wide - wide.mean((0, 2), keepdims=True)) / np.sqrt(wide.var((0, 2), keepdims=True) + 1e-5)

    def rank(ranks: Communicator) -> Array:
        y: Array = nn.SyncBatchNorm(2, process_group=ranks)(tb.tensor(xs[ranks.rank])).detach().numpy()
        return y

    assert np.abs(np.concatenate(run_ranks(3, rank)) - want).max() < 1e-5


def test_one_value_a_rank_is_enough_and_one_in_all_is_not() -> None:
    x = parts_of((1, 1), 2, (), "float64")

    def two(ranks: Communicator) -> Any:
        return nn.SyncBatchNorm(2, process_group=ranks, dtype="float64")(tb.tensor(x[ranks.rank])).tolist()

    whole = nn.BatchNorm1d(2, dtype="float64")(tb.tensor(np.concatenate(x)))
    np.testing.assert_allclose(np.concatenate(run_ranks(2, two)), whole.detach().numpy(), rtol=1e-12)
    raised = []

    def one(ranks: Communicator) -> None:
        layer = nn.SyncBatchNorm(2, process_group=ranks)
        with pytest.raises(ArgumentError, match="over all 3 ranks in training. Got 1") as error:
            layer(tb.ones(int(ranks.rank == 1), 2))
        raised.append(str(error.value).endswith("Hint: use larger batches (drop_last=True), or eval mode."))
        assert layer.num_batches_tracked.item() == 0

    run_ranks(3, one)
    assert raised == [True] * 3


def test_empty_batches_everywhere_move_nothing() -> None:
    def rank(ranks: Communicator) -> Any:
        layer = nn.SyncBatchNorm(2, process_group=ranks)
        x = tb.ones(0, 2, 3, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        return y.shape, layer.weight.grad.tolist(), layer.num_batches_tracked.item(), layer.running_var.tolist()

    assert run_ranks(2, rank) == [((0, 2, 3), [0.0, 0.0], 0, [1.0, 1.0])] * 2


def test_a_batch_that_is_not_finite_on_one_rank_is_skipped_on_all() -> None:
    def rank(ranks: Communicator) -> Any:
        layer = nn.SyncBatchNorm(2, process_group=ranks)
        x = np.ones((4, 2), np.float32) * np.arange(4)[:, None]
        x[1, 0] = np.nan if ranks.rank else 0
        y = layer(tb.tensor(x.astype(np.float32)))
        return np.isnan(y.detach().numpy()).all(0).tolist(), layer.skipped_batches, layer.num_batches_tracked.item()

    assert run_ranks(2, rank) == [([True, False], 1, 0)] * 2


class Silent(Communicator):
    """Two ranks that must not talk."""

    rank, size = 0, 2

    def all_gather(self, tensor: tb.Tensor) -> list[tb.Tensor]:
        raise AssertionError("the ranks were asked")


@pytest.mark.parametrize("case", ["alone", "one rank", "evaluation", "frozen"])
def test_where_ranks_are_not_asked_it_is_a_plain_batch_norm(case: str) -> None:
    class One(Silent):
        size = 1

    group = {"alone": None, "one rank": One()}.get(case, Silent())
    layer, plain = nn.SyncBatchNorm(3, process_group=group), nn.BatchNorm2d(3)
    for module in (layer, plain):
        module.train(case != "evaluation")
        module.use_batch_stats = False if case == "frozen" else None
    x = tb.tensor(parts_of((4,), 3, (2, 2), "float32")[0])
    assert layer(x).tolist() == plain(x).tolist()
    assert layer.running_var.tolist() == plain.running_var.tolist()


def test_switched_off_statistics_stay() -> None:
    def rank(ranks: Communicator) -> Any:
        layer = nn.SyncBatchNorm(2, process_group=ranks)
        layer.update_stats = False
        layer(tb.tensor(parts_of((4,), 2, (), "float32")[0]))
        return layer.running_mean.tolist(), layer.num_batches_tracked.item()

    assert run_ranks(2, rank) == [([0.0, 0.0], 0)] * 2


def test_a_residual_is_added_ahead_of_the_activation() -> None:
    x, r = parts_of((4,), 2, (3, 3), "float64")[0], parts_of((4,), 2, (3, 3), "float64", 7)[0]
    plain = nn.BatchNorm2d(2, activation="relu", dtype="float64")
    want = plain(tb.tensor(x), tb.tensor(r)).detach().numpy()

    def rank(ranks: Communicator) -> Array:
        layer: Any = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain), ranks)
        own = slice(2 * ranks.rank, 2 * ranks.rank + 2)
        y: Array = layer(tb.tensor(x[own]), tb.tensor(r[own])).detach().numpy()
        return y

    np.testing.assert_allclose(np.concatenate(run_ranks(2, rank)), want, atol=1e-12)


def test_converted_models_train_as_one_on_all_batches() -> None:
    """A ResNet block in two ranks: the gradients, added over the ranks, are those of the whole batch."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    net.double()
    x = parts_of((6,), 3, (5, 5), "float64")[0]
    (copied := copy.deepcopy(net))(tb.tensor(x)).pow(2).sum().backward()

    def rank(ranks: Communicator) -> list[Array]:
        own: Any = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net), ranks)
        assert isinstance(own[1], nn.SyncBatchNorm)
        assert list(own.state_dict()) == list(net.state_dict())
        own(tb.tensor(np.array_split(x, [2])[ranks.rank])).pow(2).sum().backward()
        return [p.grad.numpy() for p in own.parameters()]

    found = run_ranks(2, rank)
    for p, a, b in zip(copied.parameters(), *found, strict=True):
        np.testing.assert_allclose(a + b, p.grad.numpy(), rtol=1e-9, atol=1e-9)


def test_exact_statistics_are_those_of_all_ranks() -> None:
    xs = parts_of((5, 9), 2, (), "float32")

    def rank(ranks: Communicator) -> Any:
        layer = nn.SyncBatchNorm(2, process_group=ranks)
        update_bn(layer, [tb.tensor(xs[ranks.rank])])
        return layer.running_mean.numpy(), layer.running_var.numpy()

    whole = np.concatenate(xs).astype(np.float64)
    for mean, var in run_ranks(2, rank):
        np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-6)
        np.testing.assert_allclose(var, whole.var(0, ddof=1), rtol=1e-6)


def test_errors() -> None:
    layer = nn.SyncBatchNorm(3, process_group=Silent())
    for x in (tb.ones(2, 4), tb.ones(3), tb.ones(1, 3, 1, 1, 1, 1)):
        with pytest.raises(ShapeError, match=r"SyncBatchNorm: 'input' must have shape \(N, C, …\) of 2 to 5 axes"):
            layer(x)
    with pytest.raises(DTypeError):
        layer(tb.ones(2, 3, dtype="float64"))
    with pytest.raises(ShapeError):
        sync_batch_norm(tb.ones(2, 3), tb.ones(4), None, 1e-5, Silent())


# ----------------------------------------------------------------------------------------------- communicator


def test_every_rank_gets_everything_in_order() -> None:
    def rank(ranks: Communicator) -> Any:
        mine = tb.tensor([float(ranks.rank), 1.0])
        gathered = [t.tolist() for t in ranks.all_gather(mine)]
        mine.fill_(9.0)  # nobody else sees it
        return ranks.size, gathered, ranks.all_reduce(tb.tensor(2.0**ranks.rank)).item()

    assert run_ranks(3, rank) == [(3, [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], 7.0)] * 3


def test_a_rank_that_fails_leaves_nobody_waiting() -> None:
    def rank(ranks: Communicator) -> None:
        if ranks.rank == 1:
            raise KeyError("mine")
        ranks.all_gather(tb.ones(1))

    raised: list[BaseException] = []

    def call() -> None:
        try:
            run_ranks(3, rank, timeout=3600.0)
        except BaseException as error:
            raised.append(error)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(60.0)
    assert not caller.is_alive(), "two ranks wait for one that has failed"
    assert [(type(e), str(e)) for e in raised] == [(KeyError, "'mine'")]
    with pytest.raises(threading.BrokenBarrierError):
        run_ranks(2, lambda ranks: ranks.rank or ranks.all_gather(tb.ones(1)), timeout=0.05)
    with pytest.raises(ArgumentError, match="'size' must be an int of at least 1"):
        run_ranks(0, rank)
