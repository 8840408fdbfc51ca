"""The batch-norm layers: each line of the contract, the identities, and PyTorch."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, ShapeError
from tinygrad_bn.testing import check_vjp

LAYERS: list[tuple[Any, tuple[int, ...]]] = [
    (nn.BatchNorm1d, (8, 3)),
    (nn.BatchNorm1d, (4, 3, 5)),
    (nn.BatchNorm2d, (3, 3, 4, 2)),
    (nn.BatchNorm3d, (2, 3, 2, 2, 2)),
]
RTOL = {"float32": 2e-5, "float64": 1e-12}


def data(*shape: int, seed: int = 0, dtype: str = "float64") -> np.ndarray[Any, Any]:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * 2 + 1, dtype)


def state(layer: Any) -> tuple[list[float], list[float], int]:
    """The running statistics and the number of batches, to be compared exactly."""
    return layer.running_mean.tolist(), layer.running_var.tolist(), layer.num_batches_tracked.item()


def randomised(layer: Any) -> Any:
    """Give a layer a weight and bias that are neither ones nor zeros."""
    with tb.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.copy_(tb.tensor(data(*p.shape, seed=50 + i)))
    return layer


# --------------------------------------------------------------------------------------------- PyTorch


@pytest.mark.peers
@pytest.mark.parametrize("momentum", [0.1, 0.6, 0, 1.0, None])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"bias": False}, {"eps": 0.1}]
)
@pytest.mark.parametrize(("kind", "shape"), LAYERS)
def test_follows_pytorch(
    kind: Any, shape: tuple[int, ...], options: dict[str, Any], momentum: float | None, dtype: str, device: str
) -> None:
    torch = pytest.importorskip("torch")
    ours = randomised(kind(3, momentum=momentum, dtype=dtype, device=device, **options))
    theirs = getattr(torch.nn, kind.__name__)(3, momentum=momentum, dtype=getattr(torch, dtype), **options)
    with torch.no_grad():
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            p.copy_(torch.from_numpy(q.detach().numpy()))
    for i, training in enumerate((True, True, False, True, False)):
        a = data(shape[0] + i, *shape[1:], seed=i, dtype=dtype)
        x, y = tb.tensor(a, device=device, requires_grad=True), torch.tensor(a, requires_grad=True)
        mine, reference = ours.train(training)(x), theirs.train(training)(y)
        cotangent = data(*a.shape, seed=90 + i, dtype=dtype)
        ours.zero_grad()
        theirs.zero_grad()
        mine.backward(tb.tensor(cotangent, device=device))
        reference.backward(torch.from_numpy(cotangent))
        near(mine.detach(), reference.detach(), dtype)
        near(x.grad, y.grad, dtype)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            near(p.grad, q.grad, dtype)
        for name, t in theirs.state_dict().items():
            near(ours.state_dict()[name], t, dtype)


def near(ours: Any, theirs: Any, dtype: str) -> None:
    a, b = ours.numpy(), theirs.numpy()
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, rtol=RTOL[dtype], atol=RTOL[dtype] * max(1.0, np.abs(b).max(initial=0)))


def test_initial_state() -> None:
    layer = nn.BatchNorm2d(3)
    assert state(layer) == ([0.0] * 3, [1.0] * 3, 0)
    assert layer.num_batches_tracked.shape == ()
    assert layer.num_batches_tracked.dtype is tb.int64
    assert layer.weight.tolist() == [1.0] * 3
    assert layer.bias.tolist() == [0.0] * 3
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert (layer.eps, layer.momentum) == (1e-5, 0.1)


def test_first_principles(device: str) -> None:
    layer = randomised(nn.BatchNorm2d(3, eps=0.25, dtype=tb.float64, device=device))
    a = data(4, 3, 2, 5)
    m, v = a.mean((0, 2, 3)), a.var((0, 2, 3))
    shape = (1, 3, 1, 1)
    w, b = layer.weight.detach().numpy().reshape(shape), layer.bias.detach().numpy().reshape(shape)
    y = layer(tb.tensor(a, device=device)).detach().numpy()
    np.testing.assert_allclose(y, (a - m.reshape(shape)) / np.sqrt(v.reshape(shape) + 0.25) * w + b, rtol=1e-12)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * m, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * v * 40 / 39, rtol=1e-12)
    assert layer.num_batches_tracked.item() == 1


def test_biased_running_variance() -> None:
    layer = nn.BatchNorm1d(3, momentum=1.0, running_var="biased", dtype=tb.float64)
    a = data(6, 3)
    layer(tb.tensor(a))
    np.testing.assert_allclose(layer.running_var.numpy(), a.var(0), rtol=1e-12)
    assert "running_var='biased'" in repr(layer)


def test_cumulative_average(device: str) -> None:
    layer = nn.BatchNorm1d(3, momentum=None, dtype=tb.float64, device=device)
    batches = [data(n, 3, seed=n) for n in (4, 9, 2, 5)]
    for a in batches:
        layer(tb.tensor(a, device=device))
    np.testing.assert_allclose(layer.running_mean.numpy(), np.mean([a.mean(0) for a in batches], 0), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), np.mean([a.var(0, ddof=1) for a in batches], 0), rtol=1e-12)
    assert layer.num_batches_tracked.item() == 4


# ------------------------------------------------------------------------------------------- one value


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (1, 3)), (nn.BatchNorm1d, (1, 3, 1)), (nn.BatchNorm2d, (1, 3, 1, 1))]
)
def test_one_value_a_channel(kind: Any, shape: tuple[int, ...], device: str) -> None:
    layer = randomised(kind(3, device=device))
    with pytest.raises(
        ValueError, match=r"more than one value a channel in training. Got shape \(1, 3.*\nHint: use larger"
    ):
        layer(tb.ones(*shape, device=device))
    assert state(layer) == ([0.0] * 3, [1.0] * 3, 0)
    assert layer.eval()(tb.ones(*shape, device=device)).shape == shape


@pytest.mark.parametrize("activation", [None, "relu"])
def test_one_value_a_channel_on_request(activation: str | None, device: str) -> None:
    layer = nn.BatchNorm1d(3, on_single="warn", activation=activation, device=device)
    with tb.no_grad():
        layer.bias.copy_(tb.tensor([-1.0, 0.5, 2.0]))
    x = tb.tensor([[5.0, np.inf, np.nan]], dtype=tb.float32, device=device, requires_grad=True)
    with pytest.warns(RuntimeWarning, match="BatchNorm1d: one value a channel in training"):
        y = layer(x)
    beta = [0.0 if activation else -1.0, 0.5, 2.0]
    assert y.tolist() == [beta]
    y.backward(tb.ones(1, 3, device=device))
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0] * 3]
    assert layer.weight.grad.tolist() == [0.0] * 3
    assert layer.bias.grad.tolist() == [0.0 if activation else 1.0, 1.0, 1.0]
    assert state(layer) == ([0.0] * 3, [1.0] * 3, 0)
    bare = nn.BatchNorm1d(3, on_single="warn", affine=False, device=device)
    with pytest.warns(RuntimeWarning, match="one value"):
        assert bare(tb.ones(1, 3, device=device)).tolist() == [[0.0] * 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(tb.ones(2, 3, device=device))


# ------------------------------------------------------------------------ empty and non-finite batches


@pytest.mark.parametrize(("kind", "shape"), LAYERS)
def test_empty_batch(kind: Any, shape: tuple[int, ...], device: str) -> None:
    layer = randomised(kind(3, device=device))
    x = tb.zeros(0, *shape[1:], device=device, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.backward(tb.zeros(*x.shape, device=device))
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert layer.weight.grad.tolist() == [0.0] * 3
    assert layer.bias.grad.tolist() == [0.0] * 3
    assert state(layer) == ([0.0] * 3, [1.0] * 3, 0)
    assert layer.skipped_batches == 0
    assert layer.eval()(x).shape == x.shape


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_batch_that_is_not_finite(bad: float, dtype: str, device: str) -> None:
    layer = nn.BatchNorm1d(3, dtype=dtype, device=device)
    layer(tb.tensor(data(6, 3, dtype=dtype), device=device))
    before = state(layer)
    a = data(6, 3, seed=1, dtype=dtype)
    a[2, 1] = bad
    y = layer(tb.tensor(a, device=device)).detach().numpy()
    assert np.isnan(y[:, 1]).any()
    assert np.isfinite(y[:, [0, 2]]).all()
    assert state(layer) == before
    assert layer.skipped_batches == 1
    assert "skipped_batches=1" in repr(layer)
    assert not any("skipped" in name for name in layer.state_dict())
    assert copy.deepcopy(layer).skipped_batches == 1
    assert pickle.loads(pickle.dumps(layer)).skipped_batches == 1
    layer(tb.tensor(data(6, 3, seed=2, dtype=dtype), device=device))
    assert layer.num_batches_tracked.item() == 2
    layer.reset_running_stats()
    assert state(layer) == ([0.0] * 3, [1.0] * 3, 0)
    assert layer.skipped_batches == 0
    with pytest.raises(AttributeError):
        layer.skipped_batches = 3


def test_statistics_that_overflow_are_skipped() -> None:
    layer = nn.BatchNorm1d(1)
    layer(tb.tensor([[3e38], [-3e38]], dtype=tb.float32))
    assert layer.skipped_batches == 1
    assert state(layer) == ([0.0], [1.0], 0)


# -------------------------------------------------------------------------------------------- switches


def test_without_running_statistics() -> None:
    layer = nn.BatchNorm1d(3, track_running_stats=False, dtype=tb.float64)
    assert layer.running_mean is None
    assert list(layer.state_dict()) == ["weight", "bias"]
    x = tb.tensor(data(6, 3))
    assert tb.equal(layer(x), layer.eval()(x))
    layer.use_batch_stats = False
    with pytest.raises(ArgumentError, match="BatchNorm1d: 'use_batch_stats' must be None or True"):
        layer(x)


def test_three_separate_switches() -> None:
    a, b = tb.tensor(data(6, 3)), tb.tensor(data(6, 3, seed=1))
    plain = nn.BatchNorm1d(3, dtype=tb.float64)
    normalised = plain(a)
    running = state(plain)

    layer = nn.BatchNorm1d(3, dtype=tb.float64)
    layer.requires_grad_(False)  # weight and bias stand still, statistics move
    assert not layer(a).requires_grad
    assert state(layer) == running

    layer = nn.BatchNorm1d(3, dtype=tb.float64)
    layer.update_stats = False  # normalised by the batch, statistics stand still
    assert tb.equal(layer(a), normalised)
    assert state(layer) == ([0.0] * 3, [1.0] * 3, 0)

    layer = nn.BatchNorm1d(3, dtype=tb.float64)
    layer(a)
    layer.use_batch_stats = False  # in training, normalised by the running statistics, which stand still
    y = layer(b)
    assert state(layer) == running
    assert tb.equal(y, layer.eval()(b))
    assert y.requires_grad

    layer.use_batch_stats = True  # in evaluation, normalised by the batch; nothing moves
    layer.eval()
    assert tb.equal(layer(a), normalised)
    assert state(layer) == running


def test_update_stats_does_not_depend_on_recording() -> None:
    one, two = (nn.BatchNorm1d(3) for _ in range(2))
    x = tb.tensor(data(6, 3, dtype="float32"))
    one(x)
    with tb.no_grad():
        two(x)
    assert state(one) == state(two)
    assert not one.running_mean.requires_grad


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("training", [True, False])
def test_fused_activation(training: bool, activation: str, dtype: str, device: str) -> None:
    x = tb.tensor(data(5, 3, 4, 2, dtype=dtype), device=device, requires_grad=True)
    z = tb.tensor(data(5, 3, 4, 2, dtype=dtype), device=device, requires_grad=True)
    fused = randomised(nn.BatchNorm2d(3, activation=activation, dtype=dtype, device=device)).train(training)
    plain = randomised(nn.BatchNorm2d(3, dtype=dtype, device=device)).train(training)
    one, two = fused(x), getattr(plain(z), activation)()
    cotangent = tb.tensor(data(5, 3, 4, 2, seed=4, dtype=dtype), device=device)
    one.backward(cotangent)
    two.backward(cotangent)
    near(one.detach(), two.detach(), dtype)
    near(x.grad, z.grad, dtype)
    near(fused.weight.grad, plain.weight.grad, dtype)
    near(fused.bias.grad, plain.bias.grad, dtype)
    assert state(fused) == state(plain)
    assert (one.detach().numpy() == 0).any() == (activation == "relu")
    assert f"activation='{activation}'" in repr(fused)


# ----------------------------------------------------------------------------------- values, gradients


@pytest.mark.parametrize("size", [2, 7, 64, 1000])
def test_a_constant_channel_gives_exactly_bias(size: int, dtype: str, device: str) -> None:
    layer = nn.BatchNorm1d(3, dtype=dtype, device=device)
    with tb.no_grad():
        layer.bias.copy_(tb.tensor([0.1, -3.0, 7.7]))
    a = np.tile(np.array([1e6 + 0.1, -0.3, 1e-20], dtype), (size, 1))
    x = tb.tensor(a, device=device, requires_grad=True)
    y = layer(x)
    np.testing.assert_array_equal(y.detach().numpy(), np.tile(layer.bias.detach().numpy(), (size, 1)))
    y.backward(tb.tensor(data(size, 3, seed=3, dtype=dtype), device=device))
    assert x.grad is not None
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
def test_derivatives_with_a_weight_of_zero(activation: str | None) -> None:
    layer = nn.BatchNorm1d(3, dtype=tb.float64, activation=activation)
    weight, bias = np.array([0.0, 1.5, 0.0]), np.array([0.4, 0.2, -0.3])

    def call(x: Any, w: Any, b: Any) -> Any:
        return tb.nn.functional.batch_norm_act(x, None, None, w, b, True, activation=activation or "none")

    check_vjp(call, [tb.tensor(a) for a in (data(6, 3), weight, bias)], order=2)
    with tb.no_grad():
        layer.weight.copy_(tb.tensor(weight))
    x = tb.tensor(data(6, 3), requires_grad=True)
    (g,) = tb.grad(layer(x), x, tb.tensor(data(6, 3, seed=1)), create_graph=True)
    assert g is not None
    second = tb.grad(g, [x, layer.weight], tb.tensor(data(6, 3, seed=2)))
    for h in second:
        assert h is not None
        assert np.isfinite(h.numpy()).all()


@given(
    n=st.integers(2, 12),
    c=st.integers(1, 5),
    length=st.integers(1, 6),
    mean=st.sampled_from([0.0, 1.0, -300.0]),
    std=st.sampled_from([1e-3, 1.0, 50.0]),
    training=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_layout_does_not_matter(
    n: int, c: int, length: int, mean: float, std: float, training: bool, seed: int
) -> None:
    a = np.random.default_rng(seed).normal(mean, std, size=(n, c, length))
    layer = randomised(nn.BatchNorm1d(c, dtype=tb.float64)).train(training)
    layer.update_stats = False
    plain = layer(tb.tensor(a)).detach().numpy()
    for order in ((0, 2, 1), (2, 1, 0), (1, 0, 2), (1, 2, 0), (2, 0, 1)):
        kept = np.ascontiguousarray(a.transpose(order))
        strided = tb.from_numpy(kept.transpose(np.argsort(order)))
        np.testing.assert_allclose(layer(strided).detach().numpy(), plain, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(kept, a.transpose(order))


@given(
    n=st.integers(2, 40),
    c=st.integers(1, 4),
    mean=st.sampled_from([0.0, 5.0, 1e4]),
    eps=st.sampled_from([1e-5, 0.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_identities(n: int, c: int, mean: float, eps: float, seed: int) -> None:
    a = np.random.default_rng(seed).normal(mean, 1.0, size=(n, c))
    layer = randomised(nn.BatchNorm1d(c, eps=eps, dtype=tb.float64))
    gamma, beta = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    y = layer(tb.tensor(a)).detach().numpy()
    v = a.var(0)
    slack = 1e-9 * (1 + mean)
    np.testing.assert_allclose(y.sum(0), n * beta, rtol=1e-9, atol=n * slack)  # Σ y = m β
    np.testing.assert_allclose(y.var(0), gamma**2 * v / (v + eps), rtol=1e-7, atol=1e-12)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = layer(tb.tensor(a[order])).detach().numpy()
    np.testing.assert_allclose(shuffled, y[order], rtol=1e-9, atol=slack)
    with tb.no_grad():
        layer.weight.copy_(tb.tensor(np.sqrt(v + eps)))
        layer.bias.copy_(tb.tensor(a.mean(0)))
    np.testing.assert_allclose(layer(tb.tensor(a)).detach().numpy(), a, rtol=1e-9, atol=slack)


def test_scale_invariance_of_the_layer_ahead() -> None:
    w = data(3, 4, seed=1)
    results = []
    for scale in (1.0, 4.0):
        x = tb.tensor(data(9, 4), requires_grad=True)
        weight = tb.tensor(scale * w, requires_grad=True)
        bias = tb.zeros(3, dtype=tb.float64, requires_grad=True)
        y = nn.BatchNorm1d(3, eps=0.0, dtype=tb.float64)(tb.linear(x, weight, bias))
        y.backward(tb.tensor(data(9, 3, seed=5)))
        assert x.grad is not None
        assert weight.grad is not None
        assert bias.grad is not None
        results.append((y.detach().numpy(), x.grad.numpy(), scale * weight.grad.numpy()))
        np.testing.assert_allclose(bias.grad.numpy(), 0.0, atol=1e-13)
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-11, atol=1e-12)


def test_evaluation_is_affine() -> None:
    layer = randomised(nn.BatchNorm1d(3, dtype=tb.float64))
    layer(tb.tensor(data(8, 3)))
    layer.eval()
    slope = layer.weight.detach().numpy() / np.sqrt(layer.running_var.numpy() + layer.eps)
    offset = layer.bias.detach().numpy() - slope * layer.running_mean.numpy()
    a = data(5, 3, seed=2)
    np.testing.assert_allclose(layer(tb.tensor(a)).detach().numpy(), a * slope + offset, rtol=1e-12, atol=1e-13)


def test_gradients_sum_to_zero() -> None:
    a = data(50, 3)
    x = tb.tensor(a, requires_grad=True)
    randomised(nn.BatchNorm1d(3, eps=0.0, dtype=tb.float64))(x).backward(tb.tensor(data(50, 3, seed=1)))
    assert x.grad is not None
    g, hat = x.grad.numpy(), (a - a.mean(0)) / a.std(0)
    bound = 8 * np.finfo("f8").eps * np.abs(g).sum(0)
    assert (np.abs(g.sum(0)) <= bound).all()
    assert (np.abs((g * hat).sum(0)) <= 8 * bound).all()


def test_moving_to_another_dtype() -> None:
    layer = nn.BatchNorm1d(3)
    layer(tb.tensor(data(6, 3, dtype="float32")))
    mean = layer.running_mean
    layer.double()
    assert layer.running_mean is mean
    layer(tb.tensor(data(6, 3, seed=1)))
    assert mean.dtype is tb.float64
    assert layer.num_batches_tracked.item() == 2


# ---------------------------------------------------------------------------------------------- errors

ERRORS: list[tuple[str, Any, type[Exception], str]] = [
    ("channels", lambda: nn.BatchNorm1d(3)(tb.zeros(5, 4)), ShapeError,
     "BatchNorm1d: 'input' must have shape (N, C) or (N, C, L) with C = 3. Got (5, 4)."),
    ("axes", lambda: nn.BatchNorm2d(3)(tb.zeros(5, 3)), ShapeError, "'input' must have shape (N, C, H, W) with C"),
    ("axes", lambda: nn.BatchNorm3d(3)(tb.zeros(5, 3, 2, 2)), ShapeError, "D, H, W) with C = 3. Got (5, 3, 2, 2)"),
    ("axes", lambda: nn.BatchNorm1d(3).eval()(tb.zeros(3)), ShapeError, "BatchNorm1d: 'input' must have shape"),
    ("no tensor", lambda: nn.BatchNorm1d(3)(np.zeros((5, 3))), DTypeError,
     "BatchNorm1d: 'input' must be a Tensor. Got ndarray.\nHint: convert it"),
    ("dtype", lambda: nn.BatchNorm1d(3)(tb.zeros(5, 3, dtype=tb.float64)), DTypeError, "must have dtype float64"),
    ("integers", lambda: nn.BatchNorm1d(3)(tb.zeros(5, 3, dtype=tb.int64)), DTypeError, "batch_norm: "),
    ("device", lambda: nn.BatchNorm1d(3)(tb.zeros(5, 3, device="ref")), DeviceError, "must be on device ref"),
    ("features", lambda: nn.BatchNorm1d(-1), ArgumentError, "'num_features' must be an int of at least 0. Got -1."),
    ("features", lambda: nn.BatchNorm1d(2.0), ArgumentError, "'num_features' must be an int"),  # type: ignore[arg-type]
    ("eps", lambda: nn.BatchNorm1d(3, eps=-1e-5), ArgumentError, "BatchNorm: 'eps' must be at least 0. Got -1e-05."),
    ("momentum", lambda: nn.BatchNorm1d(3, momentum=1.5), ArgumentError, "batch_norm: 'momentum' must be from 0 to 1"),
    ("variance", lambda: nn.BatchNorm1d(3, running_var="sample"), ArgumentError, "'running_var' must be 'unbiased'"),
    ("single", lambda: nn.BatchNorm1d(3, on_single="ignore"), ArgumentError, "'on_single' must be 'error' or"),
    ("activation", lambda: nn.BatchNorm1d(3, activation="swish"), ArgumentError, "'activation' must be one of none,"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)


def test_an_error_moves_nothing() -> None:
    layer = nn.BatchNorm1d(3)
    layer.momentum = 2.0
    with pytest.raises(ArgumentError, match="'momentum' must be from 0 to 1"):
        layer(tb.ones(5, 3))
    assert state(layer) == ([0.0] * 3, [1.0] * 3, 0)
