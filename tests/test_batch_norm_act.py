"""act(batch_norm(x) + residual) for every activation: the composite is the oracle; what is kept, layers, tools."""

from __future__ import annotations

import copy
import doctest
import pickle
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, SavedTensorError
from tinygrad_bn.functional import batch_norm, batch_norm_act
from tinygrad_bn.nn import batch_norm_act as module
from tinygrad_bn.ops._activations import ACTIVATIONS, told_by_output
from tinygrad_bn.testing import check_vjp

F = tb.functional
NAMES = tuple(ACTIVATIONS)
SMOOTH = ("sigmoid", "tanh", "silu", "gelu", "gelu_tanh")
SHAPES = {
    "rows": (4, 3, 5, 7),
    "rows of registers": (3, 2, 8, 16),
    "tails": (2, 3, 1, 33),
    "block": (6, 17),
    "columns": (300, 5),
    "channels_last": (3, 19, 2, 3),
}


def data(*shape: int, dtype: str = "float64", seed: int = 0, device: str = "cpu") -> tb.Tensor:
    values = (np.random.default_rng(seed).standard_normal(shape) * 1.5).astype(dtype)
    return tb.tensor(values, device=device, requires_grad=True)


def act(z: tb.Tensor, name: str, slope: float = 0.01) -> tb.Tensor:
    """What a fused operation has to equal."""
    if name == "leaky_relu":
        return F.leaky_relu(z, slope)
    if name == "gelu_tanh":
        return F.gelu(z, approximate="tanh")
    return z if name == "none" else getattr(F, name)(z)


def composed(x: Any, r: Any, w: Any, b: Any, mean: Any, var: Any, training: bool, name: str, slope: float) -> tb.Tensor:
    z = batch_norm(x, mean, var, w, b, training)
    return act(z if r is None else z + r, name, slope)


@pytest.mark.jit_off
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_fused_as_composed(name: str, training: bool, dtype: str, device: str) -> None:
    """Values, all gradients and running statistics; rows, columns, tails, layouts, with a residual and without."""
    limit = 4e-6 if dtype == "float32" else 1e-10
    for kind, shape in SHAPES.items():
        for residual, affine in ((False, True), (True, True), (True, False)):
            found = []
            for fused in (True, False):
                x, r, gy = (data(*shape, dtype=dtype, seed=s, device=device) for s in (0, 1, 9))
                if kind == "channels_last":
                    x, gy = (
                        t.detach().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).requires_grad_()
                        for t in (x, gy)
                    )
                w, b = (data(shape[1], dtype=dtype, seed=s, device=device) if affine else None for s in (2, 3))
                mean, var = (tb.full((shape[1],), v, dtype=x.dtype, device=device) for v in (0.1, 2.0))
                rest = r if residual else None
                if fused:
                    y = batch_norm_act(x, mean, var, w, b, training, activation=name, residual=rest, negative_slope=0.2)
                else:
                    y = composed(x, rest, w, b, mean, var, training, name, 0.2)
                sources = [t for t in (x, rest, w, b) if t is not None]
                found.append([y.detach(), *tb.grad(y, sources, gy.detach()), mean, var])
            for ours, theirs in zip(*found, strict=True):
                a, c = ours.numpy().astype(np.float64), theirs.numpy().astype(np.float64)
                np.testing.assert_allclose(a, c, rtol=limit, atol=limit * max(1.0, np.abs(c).max()), err_msg=kind)


@pytest.mark.peers
@pytest.mark.parametrize("name", [n for n in NAMES if n != "none"])
def test_as_pytorch(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    values = [data(3, 4, 5, 3, dtype=dtype, seed=s).detach().numpy() for s in (0, 1, 2)]
    channels = [data(4, dtype=dtype, seed=s).detach().numpy() for s in (3, 4)]
    x, r, gy = (torch.tensor(v, requires_grad=True) for v in values)
    w, b = (torch.tensor(v, requires_grad=True) for v in channels)
    z = torch.nn.functional.batch_norm(x, None, None, w, b, True) + r
    f = torch.nn.functional
    curves = {"leaky_relu": lambda z: f.leaky_relu(z, 0.3), "gelu_tanh": lambda z: f.gelu(z, approximate="tanh")}
    y = curves.get(name, getattr(f, name, None))(z)
    theirs = [y, *torch.autograd.grad(y, (x, r, w, b), gy)]
    x, r, gy = (tb.tensor(v, requires_grad=True) for v in values)
    w, b = (tb.tensor(v, requires_grad=True) for v in channels)
    y = batch_norm_act(x, None, None, w, b, True, activation=name, residual=r, negative_slope=0.3)
    for ours, wanted in zip([y, *tb.grad(y, (x, r, w, b), gy.detach())], theirs, strict=True):
        limit = 1e-10 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(ours.detach().numpy(), wanted.detach().numpy(), rtol=limit, atol=limit)


# ------------------------------------------------------------------------------------------------ hard cases


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivatives_where_gamma_is_zero(name: str, training: bool, device: str) -> None:
    x, r, b = data(4, 2, device=device), data(4, 2, seed=1, device=device), data(2, seed=2, device=device)
    mean, var = tb.zeros(2, dtype=tb.float64, device=device), tb.ones(2, dtype=tb.float64, device=device)

    def run(x: tb.Tensor, r: tb.Tensor, w: tb.Tensor, b: tb.Tensor) -> tb.Tensor:
        return batch_norm_act(x, mean.clone(), var.clone(), w, b, training, activation=name, residual=r)

    check_vjp(run, [x, r, tb.zeros_like(b), b], order=2)


@pytest.mark.jit_off
@pytest.mark.parametrize("name", NAMES)
def test_far_out_everything_is_finite(name: str, dtype: str, device: str) -> None:
    """Up to 1e4 deviations from the mean nothing overflows: not the output, not the gradient."""
    size = np.array([[1e4, -1e4, 200.0, -200.0, 89.0, -89.0, 40.0, -40.0, 12.0, -12.0, 0.0, -0.0, 1e-30]])
    one, zero = (tb.full((13,), v, dtype=dtype, device=device) for v in (1.0, 0.0))
    for residual in (False, True):
        x = tb.tensor(size.astype(dtype), device=device, requires_grad=True)
        r = tb.zeros_like(x) if residual else None
        y = batch_norm_act(x, zero, one, eps=0.0, activation=name, residual=r)
        z = tb.tensor(size, requires_grad=True)
        wanted = act(z, name)
        wanted.backward(tb.ones_like(wanted))
        y.backward(tb.ones_like(y))
        limit = 1e-6 if dtype == "float32" else 1e-14
        np.testing.assert_allclose(y.detach().numpy(), wanted.detach().numpy(), rtol=limit, atol=limit)
        np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=limit, atol=limit)


@pytest.mark.jit_off
@pytest.mark.parametrize("name", NAMES)
def test_not_a_number_shows(name: str, dtype: str, device: str) -> None:
    for where, shape in (("x", (2, 3, 20)), ("x", (5, 3)), ("r", (2, 3, 20)), ("r", (5, 3))):
        x, r = (data(*shape, dtype=dtype, seed=s, device=device).detach() for s in (0, 1))
        {"x": x, "r": r}[where][1, 2] = float("nan")
        x.requires_grad = r.requires_grad = True
        mean, var = tb.zeros(3, dtype=dtype, device=device), tb.ones(3, dtype=dtype, device=device)
        y = batch_norm_act(x, mean, var, activation=name, residual=r if where == "r" else None)
        y.backward(tb.ones_like(y))
        assert np.isnan(y.detach().numpy()[1, 2]).all()
        assert np.isfinite(y.detach().numpy()[:, :2]).all()
        if name != "none":
            assert np.isnan((x if where == "x" else r).grad.numpy()[1, 2]).all()
        assert np.isfinite(x.grad.numpy()[:, :2]).all()


@pytest.mark.parametrize("name", NAMES)
def test_empty_batches_and_single_values(name: str, device: str) -> None:
    layer = nn.BatchNormAct2d(3, name, device=device, on_single="warn")
    x, r = tb.ones(0, 3, 2, 2, device=device, requires_grad=True), tb.ones(0, 3, 2, 2, device=device)
    y = layer(x, r)
    y.backward(tb.ones_like(y))
    assert y.shape == (0, 3, 2, 2)
    assert layer.weight.grad.tolist() == layer.bias.grad.tolist() == [0.0] * 3
    assert layer.num_batches_tracked.item() == 0
    x, r = tb.ones(1, 3, 1, 1, device=device), data(1, 3, 1, 1, dtype="float32", device=device).detach()
    with pytest.warns(RuntimeWarning, match="one value a channel"):
        found = layer(x, r)
    np.testing.assert_allclose(found.detach().numpy(), act(r, name).numpy(), rtol=1e-6)
    with pytest.raises(ArgumentError, match="more than one value a channel"):
        nn.BatchNormAct2d(3, name, device=device)(x, r)
    layer.eval()
    np.testing.assert_allclose(layer(x).detach().numpy(), act(tb.ones(1, 3, 1, 1), name).numpy(), rtol=1e-4)


@pytest.mark.parametrize("shape", [(64, 3, 17, 19), (16, 24, 9, 9), (3000, 40), (200, 130)])
def test_bit_equal_for_one_thread_and_two(shape: tuple[int, ...]) -> None:
    for name in NAMES:
        found = []
        for threads in (1, 2):
            tb.set_num_threads(threads)
            x, r, gy = (data(*shape, dtype="float32", seed=s) for s in (0, 1, 2))
            w = data(shape[1], dtype="float32", seed=3)
            outputs = []
            for residual in (None, r):
                y = batch_norm_act(x, None, None, w, None, True, activation=name, residual=residual)
                sources = (x, w) if residual is None else (x, w, r)
                outputs += [y.detach(), *tb.grad(y, sources, gy.detach())]
            found.append(outputs)
        for one, two in zip(*found, strict=True):
            np.testing.assert_array_equal(one.numpy(), two.numpy(), err_msg=name)


# ---------------------------------------------------------------------------------------- what is kept, and where


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_what_is_kept_for_backward(name: str, training: bool) -> None:
    """Without a residual nothing but what was given; with one the output, or the residual, and no new array."""
    x, r, w, b = data(4, 3), data(4, 3, seed=1), data(3, seed=2), data(3, seed=3)
    mean, var = tb.zeros(3, dtype=tb.float64), tb.ones(3, dtype=tb.float64)
    given = [t.array for t in (x, w, b, mean, var)]
    for residual in (None, r):
        y = batch_norm_act(x, mean, var, w, b, training, activation=name, residual=residual)
        node = y.node
        assert node is not None
        assert node.saved is not None
        rest = [t.array for t in node.saved if not any(t.array is a for a in given)]
        by_output = told_by_output(name)
        assert [a is r.array for a in rest] == ([] if residual is None or by_output else [True])
        assert (node.output is not None) == (residual is not None and by_output and name != "none")


def test_a_residual_that_is_kept_and_changed_is_noticed() -> None:
    x, r = data(4, 3), data(4, 3, seed=1).detach()
    y = batch_norm_act(x, None, None, training=True, activation="silu", residual=r)
    r.add_(1.0)
    with pytest.raises(SavedTensorError, match="BatchNormResidual"):
        y.sum().backward()


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.5, -0.4])
@pytest.mark.parametrize("residual", [True, False])
def test_leaky_relu_of_any_slope(slope: float, residual: bool, device: str) -> None:
    x, r, gy = (data(5, 3, 4, 4, seed=s, device=device) for s in (0, 1, 2))
    found = []
    for fused in (True, False):
        rest = r if residual else None
        if fused:
            y = batch_norm_act(
                x, None, None, training=True, activation="leaky_relu", residual=rest, negative_slope=slope
            )
        else:
            y = composed(x, rest, None, None, None, None, True, "leaky_relu", slope)
        found.append([y, *tb.grad(y, (x, r) if residual else (x,), gy.detach())])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12, atol=1e-13)


# ------------------------------------------------------------------------------------------------------- layers


def test_example() -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("name", NAMES)
def test_layer_as_plain_layer_and_activation(name: str, device: str) -> None:
    """In training, evaluation and frozen; it takes the plain layer's state dict."""
    plain = nn.BatchNorm2d(3, dtype=tb.float64, device=device)
    plain(data(4, 3, 2, 2, seed=5, device=device))
    fused = nn.BatchNormAct2d(3, name, dtype=tb.float64, device=device, negative_slope=0.2)
    assert list(fused.state_dict()) == list(plain.state_dict())
    fused.load_state_dict(plain.state_dict())
    for training, update, batch in ((True, True, None), (True, False, None), (False, True, None), (True, True, False)):
        x, r = data(5, 3, 2, 2, device=device), data(5, 3, 2, 2, seed=1, device=device)
        for layer in (fused, plain):
            layer.train(training)
            layer.update_stats, layer.use_batch_stats = update, batch
        for residual in (None, r):
            z = plain(x) if residual is None else plain(x) + residual
            np.testing.assert_allclose(
                fused(x, residual).detach().numpy(), act(z, name, 0.2).detach().numpy(), rtol=1e-11, atol=1e-13
            )
        assert fused.running_mean.tolist() == plain.running_mean.tolist()
        assert fused.num_batches_tracked.item() == plain.num_batches_tracked.item()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_layer_takes_every_name(kind: Any) -> None:
    axes = {nn.BatchNorm1d: 0, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3, nn.SyncBatchNorm: 1}[kind]
    x = data(4, 3, *[2] * axes, dtype="float32")
    for name in NAMES:
        layer = kind(3, activation=name)
        np.testing.assert_allclose(
            layer(x).detach().numpy(), act(kind(3)(x), name).detach().numpy(), rtol=1e-5, atol=1e-6
        )
        assert (f"activation='{name}'" in repr(layer)) == (name != "none")


def test_copies_keep_the_slope() -> None:
    layer = nn.BatchNormAct2d(3, "leaky_relu", negative_slope=0.3).eval()
    x = data(2, 3, 2, 2, dtype="float32")
    wanted = layer(x).tolist()
    assert "activation='leaky_relu', negative_slope=0.3" in repr(layer)
    assert "negative_slope" not in repr(nn.BatchNormAct2d(3, "leaky_relu"))
    converted = nn.utils.convert(nn.Sequential(copy.deepcopy(layer)), "BatchNorm2d")[0]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), converted):
        assert other(x).tolist() == wanted
    assert layer.train()(x).tolist() != nn.BatchNormAct2d(3, "leaky_relu")(x).tolist()


def test_names_that_are_none() -> None:
    accepted = "one of none, relu, sigmoid, leaky_relu, tanh, silu, gelu, gelu_tanh"
    for wrong in ("swish", "", 3, ["relu"]):
        with pytest.raises(ArgumentError, match=f"'activation' must be {accepted}. Got "):
            nn.BatchNormAct2d(3, wrong)
        with pytest.raises(ArgumentError, match=f"'activation' must be {accepted}. Got "):
            batch_norm_act(tb.ones(4, 3), None, None, training=True, activation=wrong)
    for slope in (float("nan"), "0.1", True, None):
        with pytest.raises(ArgumentError, match="'negative_slope' must be"):
            nn.BatchNormAct2d(3, "leaky_relu", negative_slope=slope)
    assert nn.BatchNormAct2d(3, None).activation == "none"
    x = data(4, 3)
    y = batch_norm_act(x, None, None, training=True, activation=None)
    np.testing.assert_array_equal(y.detach().numpy(), batch_norm(x, None, None, training=True).detach().numpy())


# -------------------------------------------------------------------------------------------------------- tools


@pytest.mark.parametrize("name", NAMES)
def test_folded(name: str) -> None:
    """The batch norm goes into the convolution ahead; the activation stays, its slope too."""
    norm = nn.BatchNormAct2d(4, name, negative_slope=0.3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm)
    for seed in range(3):
        net(data(4, 3, 8, 8, dtype="float32", seed=seed))
    net.eval()
    x = data(2, 3, 8, 8, dtype="float32", seed=7)
    folded = nn.utils.fold_bn(net)
    assert type(folded[1]).__name__ == "Folded"
    np.testing.assert_allclose(folded(x).detach().numpy(), net(x).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES[1:])
def test_converted(name: str) -> None:
    """To a member that normalises otherwise, and back: the activation stays."""
    x, r = data(4, 8, 3, 3, dtype="float32"), data(4, 8, 3, 3, dtype="float32", seed=1)
    group = nn.utils.convert(nn.Sequential(nn.BatchNormAct2d(8, name)), "GroupNorm", num_groups=2)[0]
    wanted = act(F.group_norm(x, 2) + r, name)
    np.testing.assert_allclose(group(x, r).detach().numpy(), wanted.detach().numpy(), rtol=1e-5, atol=1e-6)
    fused = nn.utils.convert(nn.Sequential(nn.BatchNorm2d(8, activation=name)), nn.BatchNormAct2d)[0]
    assert type(fused) is nn.BatchNormAct2d
    assert fused.activation == name


@pytest.mark.parametrize("name", ["relu", "silu", "leaky_relu"])
def test_captured(name: str) -> None:
    """A training step with residuals, replayed as it runs eagerly, bit for bit."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
            self.norm = nn.BatchNormAct2d(3, name, negative_slope=0.2)

        def forward(self, x: tb.Tensor) -> tb.Tensor:
            return self.norm(self.conv(x), x)

    def trained(captured: bool) -> list[Any]:
        tb.manual_seed(0)
        model = Net()
        optimizer = tb.optim.SGD(model.parameters(), 0.1, momentum=0.9)

        def step(x: tb.Tensor) -> tb.Tensor:
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        run = tb.capture(step) if captured else step
        losses = [run(data(4, 3, 6, 6, dtype="float32", seed=s).detach()).item() for s in range(5)]
        return [losses, *(t.tolist() for t in model.state_dict().values())]

    assert trained(True) == trained(False)
