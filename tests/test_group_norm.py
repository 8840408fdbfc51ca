"""Group, layer, instance and RMS normalisation: the layers against PyTorch, accuracy, and what they promise."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn import functional as F
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError
from tinygrad_bn.testing import check_vjp

Array = np.ndarray[Any, Any]
RTOL = {"float32": 2e-5, "float64": 1e-12}


def data(*shape: int, seed: int = 0, dtype: str = "float64") -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * 2 + 1, dtype)


def assert_near(ours: Any, theirs: Any, dtype: str) -> None:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert a.shape == b.shape
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, rtol=0, atol=RTOL[dtype] * max(1.0, np.abs(b).max(initial=0)))


# ------------------------------------------------------------------------------------------------------------- PyTorch

LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("GroupNorm", (2, 6), {}, (4, 6, 5)),
    ("GroupNorm", (3, 6, 0.1), {}, (4, 6, 3, 2)),
    ("GroupNorm", (1, 6), {"affine": False}, (4, 6)),
    ("GroupNorm", (6, 6), {"bias": False}, (4, 6, 5)),
    ("LayerNorm", (5,), {}, (4, 6, 5)),
    ("LayerNorm", ([6, 5], 0.1), {}, (4, 6, 5)),
    ("LayerNorm", ((6, 5),), {"bias": False}, (4, 6, 5)),
    ("LayerNorm", (5,), {"elementwise_affine": False}, (5,)),
    ("RMSNorm", (5,), {}, (4, 6, 5)),
    ("RMSNorm", ((6, 5), 1e-3), {"elementwise_affine": False}, (4, 6, 5)),
    ("InstanceNorm1d", (6,), {}, (4, 6, 5)),
    ("InstanceNorm1d", (6,), {"affine": True}, (6, 5)),
    ("InstanceNorm2d", (6,), {"affine": True, "bias": False}, (2, 6, 3, 4)),
    ("InstanceNorm2d", (6,), {"affine": True, "eps": 0.1}, (6, 3, 4)),
    ("InstanceNorm3d", (6,), {"track_running_stats": True}, (2, 6, 3, 1, 2)),
]


@pytest.mark.peers
@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS)
def test_layers_follow_pytorch(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...], dtype: str, device: str
) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (getattr(lib.nn, name)(*arguments, **options) for lib in (tb, torch))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(p.detach().numpy().tolist() == q.tolist() for p, q in zip(ours.parameters(), theirs.parameters()))
    with torch.no_grad():
        for i, p in enumerate(theirs.parameters()):
            p.copy_(torch.from_numpy(data(*p.shape, seed=40 + i)))
    ours.to(dtype, device=device)
    theirs.to(getattr(torch, dtype))
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    a = data(*shape, dtype=dtype)
    x, y = tb.tensor(a, device=device, requires_grad=True), torch.tensor(a, requires_grad=True)
    mine, reference = ours(x), theirs(y)
    cotangent = data(*shape, seed=1, dtype=dtype)
    mine.backward(tb.tensor(cotangent, device=device))
    reference.backward(torch.from_numpy(cotangent))
    pairs = [(mine.detach(), reference.detach()), (x.grad, y.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    for p, q in pairs:
        assert_near(p.numpy(), q.numpy(), dtype)


@pytest.mark.peers
@pytest.mark.parametrize("momentum", [0.1, 0.6, 0, 1.0, None])
@pytest.mark.parametrize(("name", "shape"), [("InstanceNorm1d", (4, 3, 5)), ("InstanceNorm2d", (2, 3, 4, 2))])
def test_running_statistics_follow_pytorch(
    name: str, shape: tuple[int, ...], momentum: float | None, dtype: str, device: str
) -> None:
    """Averaged over the samples, unbiased; used in evaluation, where they stay as they are; saved and loaded."""
    torch = pytest.importorskip("torch")
    options = {"momentum": momentum, "track_running_stats": True, "affine": True}
    ours = getattr(nn, name)(3, dtype=dtype, device=device, **options)
    theirs = getattr(torch.nn, name)(3, dtype=getattr(torch, dtype), **options)
    for step in range(8):
        if step == 5:
            ours.eval()
            theirs.eval()
        a = data(*shape, seed=step, dtype=dtype) * (1 + step)
        mine, reference = ours(tb.tensor(a, device=device)), theirs(torch.from_numpy(a))
        assert_near(mine.detach().numpy(), reference.detach().numpy(), dtype)
        for key, value in theirs.state_dict().items():
            assert_near(ours.state_dict()[key].numpy(), value.numpy(), dtype)
    again = getattr(nn, name)(3, dtype=dtype, device=device, **options)
    again.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    assert_near(again.eval()(tb.tensor(a, device=device)).detach().numpy(), reference.detach().numpy(), dtype)


@pytest.mark.peers
@given(st.data(), strategies.DTYPES)
def test_groups_of_any_shape_follow_pytorch(draw: st.DataObject, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    groups, depth = draw.draw(st.integers(1, 4)), draw.draw(st.integers(1, 5))
    shape = (draw.draw(st.integers(0, 4)), groups * depth, *draw.draw(strategies.shapes(0, 3, 0, 5)))
    if np.prod((shape[0], depth, *shape[2:])) == 1:
        shape = (2, *shape[1:])
    x = draw.draw(strategies.values(shape, dtype))
    weight, bias = (draw.draw(strategies.values((groups * depth,), dtype)) for _ in range(2))
    want = torch.nn.functional.group_norm(*(torch.from_numpy(x), groups), *map(torch.from_numpy, (weight, bias)), 0.1)
    tensors = [tb.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y = F.group_norm(tensors[0], groups, *tensors[1:], 0.1)
    cancelling = np.abs(x).max(initial=1) * np.abs(weight).max(initial=1)
    atol = (2e-5 if dtype == "float32" else 1e-12) * cancelling
    np.testing.assert_allclose(y.detach().numpy(), want.numpy(), rtol=0, atol=atol)
    y.backward(tb.ones_like(y))
    np.testing.assert_allclose(tensors[2].grad.numpy(), np.full(groups * depth, x.size / (groups * depth)), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------- accuracy

ROWS: list[tuple[str, tuple[int, ...], Callable[[tb.Tensor], tb.Tensor], tuple[int, ...]]] = [
    ("groups", (6, 8, 50), lambda x: F.group_norm(x, 2), (6, 2, 200)),
    ("long groups", (2, 2, 3, 3000), lambda x: F.group_norm(x, 1), (2, 1, 18000)),
    ("layers", (50, 300), lambda x: F.layer_norm(x, 300), (50, 300)),
    ("long layers", (3, 9000), lambda x: F.layer_norm(x, 9000), (3, 9000)),
    ("instances", (6, 4, 20, 20), F.instance_norm, (24, 400)),
]


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize(("shape", "call", "view"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_accuracy_at_large_means(
    shape: tuple[int, ...], call: Callable[[tb.Tensor], tb.Tensor], view: tuple[int, ...], mean: float, device: str
) -> None:
    """At a mean of a million standard deviations float32 loses nothing."""
    x = (mean + np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    wide = x.astype(np.float64).reshape(view)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    got = call(tb.tensor(x, device=device)).numpy().reshape(view)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_gradients_at_large_means(device: str) -> None:
    """mean 1e4, variance 1, in float32: those of float64."""
    a = (1e4 + np.random.default_rng(0).standard_normal((40, 6, 25))).astype(np.float32)
    g = data(*a.shape, seed=1, dtype="float32")
    for call in (lambda x: F.group_norm(x, 3), lambda x: F.layer_norm(x, (6, 25)), F.instance_norm):
        gradients = []
        for dtype in ("float32", "float64"):
            x = tb.tensor(a.astype(dtype), device=device, requires_grad=True)
            call(x).backward(tb.tensor(g.astype(dtype), device=device))
            assert x.grad is not None
            gradients.append(x.grad.numpy())
        np.testing.assert_allclose(gradients[0], gradients[1], rtol=0, atol=1e-5)


def test_sums_over_many_samples_are_those_of_float64() -> None:
    """Of the weight's and the bias's gradient, whose terms a layer norm adds lane by lane."""
    x, g = (np.random.default_rng(i).standard_normal((20_000, 19)).astype(np.float32) for i in range(2))
    t, weight, bias = tb.tensor(x), tb.ones(19, requires_grad=True), tb.zeros(19, requires_grad=True)
    F.layer_norm(t, 19, weight, bias).backward(tb.tensor(g + 3))
    wide = x.astype(np.float64)
    hat = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    assert weight.grad is not None
    assert bias.grad is not None
    np.testing.assert_allclose(bias.grad.numpy(), (g + 3).sum(0, dtype=np.float64), rtol=3e-7)
    np.testing.assert_allclose(weight.grad.numpy(), (hat * (g + 3)).sum(0), atol=2e-3)  # of terms that add up to 6e4


@pytest.mark.parametrize("value", [0.1, -1e4, 1 / 3, 3e30])
def test_a_constant_row_is_the_bias(value: float, dtype: str, device: str) -> None:
    """Exactly; its gradient is finite, also the second."""
    for shape, groups in (((3, 4, 700), 2), ((2, 2, 9000), 1), ((5, 33), 1)):
        x = tb.full(shape, value, dtype=dtype, device=device, requires_grad=True)
        bias = tb.tensor(data(shape[1], dtype=dtype), device=device)
        y = F.group_norm(x, groups, bias * 2, bias)
        want = np.broadcast_to(bias.numpy().reshape(1, -1, *[1] * (len(shape) - 2)), shape)
        np.testing.assert_array_equal(y.detach().numpy(), want)
        if abs(value) < 1:
            g = tb.tensor(data(*shape, dtype=dtype), device=device)
            (first,) = tb.grad(y, x, g, create_graph=True)
            (second,) = tb.grad(first, x, g)
            assert np.isfinite(first.detach().numpy()).all()
            assert np.isfinite(second.numpy()).all()


def test_what_is_not_finite_stays_in_its_row(device: str) -> None:
    a = data(4, 6, 5, dtype="float32")
    a[1, 2, 3], a[2, 5, 0] = np.nan, np.inf
    y = F.group_norm(tb.tensor(a, device=device), 2).numpy().reshape(8, -1)
    assert np.isnan(y).all(1).tolist() == [i in (2, 5) for i in range(8)]


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0)])
def test_without_elements(shape: tuple[int, ...], device: str) -> None:
    """Empty outputs, gradients of zero, running statistics that stay."""
    x = tb.zeros(*shape, device=device, requires_grad=True)
    for layer in (nn.GroupNorm(2, 4), nn.LayerNorm(shape[1:]), nn.InstanceNorm1d(4, 0.1, 0.1, True, True)):
        layer.to(device=device)
        y = layer(x)
        assert y.shape == shape
        y.backward(tb.zeros(*shape, device=device))
        for p in layer.parameters():
            assert p.grad is not None
            assert p.grad.shape == p.shape
            assert not p.grad.numpy().any()
    assert layer.running_mean.tolist() == [0.0] * 4
    assert layer.running_var.tolist() == [1.0] * 4


def test_a_bad_batch_leaves_the_running_statistics() -> None:
    layer = nn.InstanceNorm1d(2, track_running_stats=True)
    x = tb.ones(2, 2, 3)
    x[0, 1, 1] = float("inf")
    layer(x)
    assert layer.running_mean.tolist() == [0.0, 0.0]
    assert layer.running_var.tolist() == [1.0, 1.0]


# --------------------------------------------------------------------------------------------------------------- layers


def test_three_ways_to_say_the_same(device: str) -> None:
    """Of one group it is layer norm, of groups of one channel instance norm, of one sample batch norm."""
    x = tb.tensor(data(3, 4, 5, 2), device=device)
    np.testing.assert_allclose(F.group_norm(x, 1).numpy(), F.layer_norm(x, (4, 5, 2)).numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(F.group_norm(x, 4).numpy(), F.instance_norm(x).numpy())
    one = F.batch_norm(x[:1], None, None, training=True).numpy()
    np.testing.assert_allclose(F.instance_norm(x[:1]).numpy(), one, rtol=1e-12, atol=1e-13)


def test_strides_of_the_running_statistics() -> None:
    held = tb.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    mean, var = held[:, 0], held[:, 1]
    plain_mean, plain_var = tb.zeros(3), tb.ones(3)
    x = tb.tensor(data(4, 3, 5, dtype="float32"))
    F.instance_norm(x, mean, var)
    F.instance_norm(x, plain_mean, plain_var)
    assert mean.tolist() == plain_mean.tolist() != [0.0] * 3
    assert var.tolist() == plain_var.tolist() != [1.0] * 3


def test_evaluation_differentiates_by_constants() -> None:
    layer = nn.InstanceNorm2d(3, affine=True, track_running_stats=True, dtype="float64")
    layer(tb.tensor(data(2, 3, 4, 4)))
    layer.eval()
    check_vjp(lambda x, w, b: F.instance_norm(x, layer.running_mean, layer.running_var, w, b, False),
              [tb.tensor(data(*s)) for s in ((2, 3, 4, 4), (3,), (3,))], order=2)  # fmt: skip


def test_another_number_of_channels_warns_where_it_does_not_matter() -> None:
    """As in PyTorch; with a weight or running statistics it is an error."""
    with pytest.warns(UserWarning, match="InstanceNorm1d: the input has 4 channels; 'num_features' is 3, and not used"):
        y = nn.InstanceNorm1d(3)(tb.tensor(data(2, 4, 5)))
    assert y.shape == (2, 4, 5)
    for options in ({"affine": True}, {"track_running_stats": True}):
        with pytest.raises(ShapeError, match=r"shape \(N, C, L\) or \(C, L\) with C = 3\. Got \(2, 4, 5\)\."):
            nn.InstanceNorm1d(3, **options)(tb.tensor(data(2, 4, 5, dtype="float32")))


def test_copies_and_pickles() -> None:
    layer = nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, track_running_stats=True), nn.LayerNorm(5))
    layer(tb.tensor(data(3, 4, 5, dtype="float32")))
    x = tb.tensor(data(3, 4, 5, seed=1, dtype="float32"))
    layer.eval()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other(x).tolist() == layer(x).tolist()
    assert layer[1].num_batches_tracked.item() == 0
    layer[1].reset_parameters()
    assert layer[1].running_mean.tolist() == [0.0] * 4


def test_training_moves_the_parameters() -> None:
    """A net of all of them learns; nothing warns."""
    tb.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 12), nn.LayerNorm(12), nn.Tanh(), nn.Linear(12, 12), nn.GroupNorm(3, 12), nn.RMSNorm(12),
        nn.Linear(12, 1),
    )  # fmt: skip
    x = tb.tensor(data(64, 6, dtype="float32"))
    target = x[:, :1] * x[:, 1:2]
    optimiser = tb.optim.RMSprop(net.parameters(), lr=3e-3)
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(150):
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(net(x), target)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.GroupNorm(4, 6), ArgumentError, "GroupNorm: 'num_channels' must be a multiple of 4 groups. Got 6."),
    (lambda: nn.GroupNorm(0, 6), ArgumentError, "GroupNorm: 'num_groups' must be an int of at least 1. Got 0."),
    (lambda: nn.GroupNorm(2, 6, eps=-1), ArgumentError, "GroupNorm: 'eps' must be at least 0. Got -1."),
    (lambda: nn.GroupNorm(2, 6)(tb.zeros(2, 4)), ShapeError, "'input' must have shape (N, C, …) with C = 6. Got"),
    (lambda: nn.GroupNorm(2, 6)([1.0]), DTypeError, "GroupNorm: 'input' must be a Tensor. Got list."),
    (lambda: nn.LayerNorm(()), ArgumentError, "LayerNorm: 'normalized_shape' must have at least one axis. Got ()."),
    (lambda: nn.LayerNorm(2.5), ArgumentError, "LayerNorm: 'normalized_shape' must be ints. Got float 2.5."),  # type: ignore[arg-type]
    (lambda: nn.LayerNorm(4)(tb.zeros(2, 3)), ShapeError, "layer_norm: 'input' must have a shape that ends in"),
    (lambda: nn.RMSNorm(4)(tb.zeros(2, 3)), ShapeError, "rms_norm: 'input' must have a shape that ends in"),
    (lambda: nn.InstanceNorm2d(-1), ArgumentError, "InstanceNorm2d: 'num_features' must be an int of at least 0."),
    (lambda: nn.InstanceNorm1d(3, momentum=2), ArgumentError, "InstanceNorm1d: 'momentum' must be from 0 to 1"),
    (lambda: nn.InstanceNorm2d(3)(tb.zeros(2, 3)), ShapeError, "(N, C, H, W) or (C, H, W) with C = 3. Got (2, 3)."),
    (lambda: nn.InstanceNorm2d(3)(tb.zeros(2, 3, 1, 1)), ArgumentError, "more than one value a channel of a sample"),
    (lambda: nn.InstanceNorm1d(3)(np.zeros((2, 3, 4))), DTypeError, "InstanceNorm1d: 'input' must be a Tensor."),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
