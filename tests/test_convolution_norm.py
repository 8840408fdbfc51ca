"""Convolution and batch normalisation in chains: the modules and operations one by one are the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import errors
from tinygrad_bn.core import launch
from tinygrad_bn.functional.convolution import geometry_of
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.nn import _chain
from tinygrad_bn.ops.convolution_norm import convolution_moments

F = tb.nn.functional
Array = np.ndarray[Any, Any]


def launched(run: Callable[[], object]) -> list[str]:
    names: list[str] = []

    def watch(kernel: Kernel, arguments: tuple[Any, ...], go: Any) -> None:
        names.append(kernel.name)
        go()

    launch.observers.append(watch)
    try:
        run()
    finally:
        launch.observers.pop()
    return names


def tensors(dtype: str, *shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [tb.tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]


def close(found: Any, wanted: Any, tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        a, b = a.detach().numpy(), b.detach().numpy()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


SHAPES = [(3, 9, 11, 14), (2, 8, 5, 33), (130, 8, 4, 4)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("act", ["relu", "sigmoid", "none"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("residual", [True, False])
def test_normalisation_behind_a_convolution(dtype: str, act: str, shape: tuple[int, ...], residual: bool) -> None:
    n, c, h, w = shape
    x, f, g, b, r, gy = tensors(dtype, shape, (17, c, 3, 3), (17,), (17,), (n, 17, h, w), (n, 17, h, w))
    r = r if residual else None
    inputs = [x, f, g, b, *([r] if residual else [])]
    running = [tb.zeros(17, dtype=getattr(tb, dtype)), tb.ones(17, dtype=getattr(tb, dtype))]
    other = [t.clone() for t in running]
    y = F.conv2d_batch_norm_act(x, f, *running, g, b, True, 0.3, 1e-3, act, r, padding=1)
    wanted = F.batch_norm_act(F.conv2d(x, f, padding=1), *other, g, b, True, 0.3, 1e-3, act, r)
    close([y, *running], [wanted, *other], 2e-6 if dtype == "float32" else 1e-14)
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    close(tb.grad(y, inputs, gy), tb.grad(wanted, inputs, gy), tolerance)


@pytest.mark.parametrize("act", ["relu", "none", "sigmoid"])
@pytest.mark.parametrize("shape", SHAPES)
def test_normalisation_ahead_of_a_convolution(act: str, shape: tuple[int, ...]) -> None:
    n, c, h, w = shape
    x, f, g, b, gy = tensors("float32", shape, (17, c, 3, 3), (c,), (c,), (n, 17, h + 2, w + 2))
    running = [tb.zeros(c), tb.ones(c)]
    other = [t.clone() for t in running]
    z = F.batch_norm_act_conv2d(x, *running, g, b, f, True, 0.3, 1e-3, act, padding=2)
    wanted = F.conv2d(F.batch_norm_act(x, *other, g, b, True, 0.3, 1e-3, act), f, padding=2)
    close([z, *running], [wanted, *other], 2e-6)
    close(tb.grad(z, [x, f, g, b], gy), tb.grad(wanted, [x, f, g, b], gy), 2e-5)


def test_what_is_normalised_on_the_way_in_is_never_stored() -> None:
    x, f, g, b = tensors("float32", (4, 8, 8, 8), (8, 8, 3, 3), (8,), (8,))
    names = launched(lambda: F.batch_norm_act_conv2d(x, None, None, g, b, f, True, padding=1).sum().backward())
    assert "winograd_convolution" in names
    assert "batch_norm_statistics" in names
    assert not {"batch_norm_train", "batch_norm_given"} & set(names)


def test_evaluation_is_the_functions_one_by_one() -> None:
    x, f, g, b = tensors("float32", (2, 8, 6, 6), (8, 8, 3, 3), (8,), (8,))
    mean, var = tb.full((8,), 0.3), tb.full((8,), 2.0)
    y = F.conv2d_batch_norm_act(x, f, mean, var, g, b, padding=1)
    close([y], [F.batch_norm_act(F.conv2d(x, f, padding=1), mean, var, g, b)], 0)
    y = F.batch_norm_act_conv2d(x, mean, var, g, b, f, padding=1)
    close([y], [F.conv2d(F.batch_norm_act(x, mean, var, g, b), f, padding=1)], 0)


@pytest.mark.parametrize("mean", [0.0, 30.0, 1e4, -1e6])
def test_moments_of_results_far_from_zero(mean: float) -> None:
    """Statistics as exact as those of a pass of their own, whatever the mean: also of a channel that hardly varies."""
    rng = np.random.default_rng(0)
    x, f = rng.standard_normal((5, 8, 19, 21)), rng.standard_normal((9, 8, 3, 3))
    x, f = x.astype(np.float32), f.astype(np.float32)
    x[0, :, :4, :4] += 1e3  # the block's first results are no likely centre
    geometry = geometry_of("conv2d", 2, tb.tensor(x), tb.tensor(f), None, 1, 0, 1, 1)
    z, statistics = convolution_moments(tb.tensor(x + np.float32(mean)), tb.tensor(f), geometry, 1e-5)
    values = z.numpy().astype(np.float64)
    deviation = float(values.std())
    np.testing.assert_allclose(statistics.rows[0], values.mean((0, 2, 3)), rtol=1e-6, atol=1e-6 * deviation)
    np.testing.assert_allclose(statistics.rows[2], values.var((0, 2, 3)), rtol=1e-5)


def test_moments_do_not_depend_on_the_threads() -> None:
    x, f = (t.detach() for t in tensors("float32", (9, 17, 21, 33), (19, 17, 3, 3)))
    before = tb.get_num_threads()
    found = []
    try:
        for threads in range(1, launch.pool.limit + 1):
            tb.set_num_threads(threads)
            found.append(F.conv2d_batch_norm_act(x, f, None, None, training=True, padding=1).numpy())
    finally:
        tb.set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def block(**changes: Any) -> Any:
    tb.manual_seed(0)
    options = {"stride": 1, "inputs": 8, "shortcut": "conv", **changes}
    return tb.models.resnet.BasicBlock(options["inputs"], 8, options["stride"], options["shortcut"])


def step(module: Any, x: Any) -> list[Any]:
    y = module(x)
    (y * y).sum().backward()
    state = [t.clone() for t in module.state_dict().values()]
    return [y, *(p.grad for p in module.parameters()), *state]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_a_residual_block_is_its_modules(stride: int, training: bool) -> None:
    (x,) = tensors("float32", (4, 8, 12, 12))
    chained, plain = (block(stride=stride, inputs=8).train(training) for _ in range(2))
    plain.bn2.register_forward_hook(lambda module, inputs, output: None)
    names = launched(lambda: chained(x))
    assert ("batch_norm_given" in names) is training
    assert "batch_norm_given" not in launched(lambda: plain(x))
    for found, wanted in zip(step(chained, x), step(plain, x), strict=True):
        close([found.to(tb.float64)], [wanted.to(tb.float64)], 3e-5)


@pytest.mark.parametrize("name", ["conv1", "bn1", "conv2", "bn2"])
def test_hooks_of_a_residual_block_are_called(name: str) -> None:
    module, seen = block(), []
    getattr(module, name).register_forward_hook(lambda *_: seen.append(name))
    module(tb.zeros(2, 8, 6, 6))
    assert seen == [name]


def test_a_convolution_and_its_normalisation() -> None:
    (x,) = tensors("float32", (3, 8, 9, 9))
    tb.manual_seed(1)
    conv, norm = tb.nn.Conv2d(8, 12, 3, padding=1, bias=False), tb.nn.BatchNorm2d(12)
    y = _chain.convolve_norm(conv, norm, x, "relu")
    mean = norm.running_mean.clone()
    norm.reset_running_stats()
    close([y, mean], [F.relu(norm(conv(x))), norm.running_mean], 2e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"input": tb.zeros(8, 6, 6)}, errors.ShapeError, r"^batch_norm: 'input' must have 4 axes, \(N, C, H, W\)\."),
        ({"bn_weight": tb.zeros(3)}, errors.ShapeError, r"^batch_norm: 'weight' must have shape \(C,\) = \(8,\)\."),
        ({"running_mean": tb.zeros(8)}, errors.ArgumentError, r"^batch_norm: 'running_var' must be given"),
        ({"activation": "swish"}, errors.ArgumentError, r"^batch_norm: 'activation' must be"),
        ({"weight": tb.zeros(8, 7, 3, 3)}, errors.ShapeError, r"^conv2d: 'weight' must have"),
        ({"input": tb.zeros(1, 8, 3, 3)}, errors.ArgumentError, r"^batch_norm: 'input' must have more than one value"),
    ],
)
@pytest.mark.parametrize("name", ["conv2d_batch_norm_act", "batch_norm_act_conv2d"])
def test_errors(name: str, arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    if name.startswith("batch_norm") and arguments.get("input") is not None and arguments["input"].ndim == 4:
        arguments = {"input": tb.zeros(1, 8, 1, 1), "padding": 1}
    given = {"input": tb.zeros(2, 8, 6, 6), "weight": tb.zeros(8, 8, 3, 3), "running_mean": None, "running_var": None}
    extra = {} if name.startswith("conv2d") else {"bn_weight": None, "bn_bias": None}
    with pytest.raises(error, match=text):
        getattr(F, name)(**{**extra, **given, "training": True, **arguments})


def test_a_residual_that_does_not_fit() -> None:
    x, f = tb.zeros(2, 8, 6, 6), tb.zeros(8, 8, 3, 3)
    with pytest.raises(errors.ShapeError, match=r"^batch_norm: 'residual' must have the input's shape \(2, 8, 4, 4\)"):
        F.conv2d_batch_norm_act(x, f, None, None, training=True, residual=x)
