"""act(batch_norm(x) + residual), as a function and as a layer: the composite, running statistics, launches, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.core import launch
from tinygrad_bn.errors import ArgumentError, SavedTensorError, ShapeError
from tinygrad_bn.functional import batch_norm, batch_norm_act
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.models.resnet import BasicBlock
from tinygrad_bn.testing import assert_close

pytestmark = [pytest.mark.jit_off]
ACTIVATIONS = ("relu", "sigmoid", "none")


def data(*shape: int, dtype: str = "float64", seed: int = 0, device: str = "cpu") -> tb.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return tb.tensor(values, device=device, requires_grad=True)


def launched(run: Callable[[], Any]) -> list[str]:
    names: list[str] = []

    def watch(kernel: Kernel, arguments: tuple[Any, ...], go: Callable[[], None]) -> None:
        names.append(kernel.name)
        go()

    launch.observers.append(watch)
    try:
        run()
    finally:
        launch.observers.pop()
    return names


def compose(y: tb.Tensor, r: tb.Tensor, activation: str) -> tb.Tensor:
    out = y + r
    return out if activation == "none" else getattr(tb, activation)(out)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_as_composed(activation: str, training: bool, dtype: str, device: str) -> None:
    """Values, all gradients and the running statistics."""
    found = []
    for fused in (True, False):
        x, r = (data(4, 3, 5, 2, dtype=dtype, seed=s, device=device) for s in (0, 1))
        w, b = (data(3, dtype=dtype, seed=s, device=device) for s in (2, 3))
        mean, var = tb.zeros(3, dtype=x.dtype, device=device), tb.ones(3, dtype=x.dtype, device=device) * 2
        if fused:
            y = batch_norm_act(x, mean, var, w, b, training, activation=activation, residual=r)
        else:
            y = compose(batch_norm(x, mean, var, w, b, training), r, activation)
        y.backward(data(4, 3, 5, 2, dtype=dtype, seed=9, device=device).detach())
        found.append([y, mean, var, x.grad, r.grad, w.grad, b.grad])
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours.detach().numpy(), theirs.detach().numpy(), 2e-6 if dtype == "float32" else 1e-13)


def test_one_kernel_forward_and_one_back() -> None:
    """But for the update of the running statistics."""
    layer = nn.BatchNorm2d(3, activation="relu")
    x, r = data(2, 3, 4, 4, dtype="float32"), data(2, 3, 4, 4, dtype="float32", seed=1)
    gy = tb.ones(2, 3, 4, 4)
    out: list[tb.Tensor] = []
    assert launched(lambda: out.append(layer(x, r))) == ["batch_norm_residual", "batch_norm_update"]
    assert launched(lambda: tb.grad(out[0], (x, r), gy)) == ["batch_norm_residual_backward"]
    assert launched(lambda: layer.eval()(x, r)) == ["batch_norm_residual_eval"]


def test_without_an_activation_the_residual_takes_the_gradient_as_it_is() -> None:
    x, r = data(4, 3), data(4, 3, seed=1)
    gy = data(4, 3, seed=2).detach()
    y = batch_norm_act(x, None, None, training=True, activation="none", residual=r)
    gr, gx = tb.grad(y, (r, x), gy)
    np.testing.assert_array_equal(gr.numpy(), gy.numpy())
    assert not np.shares_memory(gx.numpy(), gy.numpy())


def test_the_same_tensor_on_both_branches() -> None:
    x = data(6, 3)
    y = batch_norm_act(x, None, None, training=True, activation="sigmoid", residual=x)
    z = compose(batch_norm(x, None, None, training=True), x, "sigmoid")
    gy = data(6, 3, seed=2).detach()
    for g, want in zip(tb.grad(y, (x,), gy), tb.grad(z, (x,), gy), strict=True):
        np.testing.assert_allclose(g.numpy(), want.numpy(), rtol=1e-12, atol=1e-14)


def test_gradients_of_any_order() -> None:
    """Third derivatives, through the output that the second's rule is given."""

    def third(f: Callable[[tb.Tensor, tb.Tensor], tb.Tensor]) -> Any:
        x, r = data(5, 2), data(5, 2, seed=1)
        g = data(5, 2, seed=3).detach()
        (gr,) = tb.grad(f(x, r), (r,), g, create_graph=True)
        (gx,) = tb.grad(gr, (x,), g, create_graph=True)
        return tb.grad(gx, (x, r), g)

    ours = third(lambda x, r: batch_norm_act(x, None, None, training=True, activation="sigmoid", residual=r))
    theirs = third(lambda x, r: compose(batch_norm(x, None, None, training=True), r, "sigmoid"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-12)


def test_an_output_changed_in_place_is_noticed() -> None:
    x, r = data(4, 3), data(4, 3, seed=1)
    y = batch_norm_act(x, None, None, training=True, residual=r)
    z = y * 1.0
    y.detach().add_(1.0)
    with pytest.raises(SavedTensorError, match="BatchNormResidual"):
        z.sum().backward()


def test_nothing_is_kept_of_the_residual() -> None:
    """Its memory may be used again: no gradient is made from it."""
    x, r = data(4, 3), data(4, 3, seed=1).detach()
    y = batch_norm_act(x, None, None, training=True, residual=r)
    r.fill_(np.nan)
    y.backward(data(4, 3, seed=2).detach())
    assert np.isfinite(x.grad.numpy()).all()


def test_not_a_number_shows(device: str) -> None:
    x, r = data(4, 3, device=device), data(4, 3, seed=1, device=device)
    with tb.no_grad():
        r[1, 2] = float("nan")
    r.requires_grad = True
    y = batch_norm_act(x, None, None, training=True, residual=r)
    y.backward(tb.ones(4, 3, dtype=tb.float64, device=device))
    for t in (y.detach(), r.grad):
        assert np.isnan(t.numpy()).sum() == 1
        assert np.isnan(t.numpy()[1, 2])
    assert np.isnan(x.grad.numpy()).any(0).tolist() == [False, False, True]


@pytest.mark.parametrize("batch", [None, True])
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
def test_layer(activation: str | None, batch: bool | None, device: str) -> None:
    """In training, evaluation, and with its switches, as the layer without an activation and the rest behind it."""
    fused = nn.BatchNorm1d(3, activation=activation, dtype=tb.float64, device=device)
    plain = nn.BatchNorm1d(3, dtype=tb.float64, device=device)
    for training, update in ((True, True), (True, False), (False, True)):
        x, r = data(5, 3, device=device), data(5, 3, seed=1, device=device)
        for layer in (fused, plain):
            layer.train(training)
            layer.update_stats, layer.use_batch_stats = update, batch
        np.testing.assert_allclose(
            fused(x, r).detach().numpy(), compose(plain(x), r, activation or "none").detach().numpy(), rtol=1e-12
        )
        assert fused.running_mean.tolist() == plain.running_mean.tolist()
        assert fused.num_batches_tracked.item() == plain.num_batches_tracked.item()


def test_layer_with_one_value_a_channel() -> None:
    layer = nn.BatchNorm1d(3, on_single="warn", activation="relu")
    with pytest.warns(RuntimeWarning, match="one value a channel"):
        y = layer(tb.ones(1, 3), tb.tensor([[-1.0, 0.0, 2.0]]))
    assert y.tolist() == [[0.0, 0.0, 2.0]]
    with pytest.raises(ShapeError, match="'residual' must have the input's shape"):
        layer(tb.ones(1, 3), tb.ones(3))


def test_faults_of_the_function() -> None:
    x = tb.ones(4, 3)
    with pytest.raises(ShapeError, match=r"batch_norm: 'running_mean' must have shape \(C,\) = \(3,\)"):
        batch_norm_act(x, tb.zeros(2), tb.ones(2), training=True, residual=x)
    with pytest.raises(ArgumentError, match="'running_var' must be given where the other running statistic is"):
        batch_norm_act(x, tb.zeros(3), None, training=True, residual=x)
    with pytest.raises(ArgumentError, match="'activation' must be one of none, relu, sigmoid, leaky"):
        batch_norm_act(x, None, None, training=True, residual=x, activation="swish")


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
@pytest.mark.parametrize("training", [True, False])
def test_block_of_a_residual_network(training: bool, shortcut: str) -> None:
    """As its formula says, and by fewer launches."""
    tb.manual_seed(0)
    block = BasicBlock(4, 8, 2, shortcut).double()
    x = data(3, 4, 6, 6)
    block.train()(x)
    block.train(training)
    short = block.downsample(x)
    y = block.bn2.forward_activated(block.conv2(block.bn1(block.conv1(x))), "none")
    want = tb.relu(y + short)
    gy = data(*want.shape, seed=5).detach()
    got = block(x)
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-12, atol=1e-14)
    parameters = (x, *block.parameters())
    for a, b in zip(tb.grad(got, parameters, gy), tb.grad(want, parameters, gy), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)
    assert "add" not in launched(lambda: block(x))
    assert "relu" not in launched(lambda: block(x))
