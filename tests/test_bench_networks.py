"""The float64 answers that convolutional networks, convolutions and pooling are held against in the benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench.cases import w2, w3  # noqa: E402  # the repository's root must be on the path first
from bench.cases._convolution import (  # noqa: E402
    avg_pool,
    avg_pool_input,
    conv,
    conv_input,
    conv_weight,
    max_pool,
    max_pool_input,
)
from bench.cases._networks import Chain, Conv, Flatten, Linear, MaxPool, Mean, Norm, ReLU, Sum  # noqa: E402
from bench.cases._training import gradients  # noqa: E402
from bench.cases.pooling import different  # noqa: E402
from bench.harness.case import discover, inputs_of, select  # noqa: E402

GEOMETRY = [(1, 1, 0), (3, 1, 1), (3, 2, 1), (2, 2, 0), (1, 2, 0)]
"""Kernel, stride, padding."""


def naive(x: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """One output at a time, from the definition."""
    kernel = weight.shape[2]
    wide = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = ((n - kernel) // stride + 1 for n in wide.shape[2:])
    y = np.empty((len(x), len(weight), height, width))
    for i in range(height):
        for j in range(width):
            window = wide[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            y[:, :, i, j] = np.einsum("nchw,ochw->no", window, weight)
    return y


@pytest.mark.parametrize("geometry", GEOMETRY)
def test_convolution_and_its_gradients(geometry: tuple[int, int, int]) -> None:
    """The map is linear in each argument: its gradients are its adjoints."""
    kernel, stride, padding = geometry
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 3, 6, 7)), rng.standard_normal((4, 3, kernel, kernel))
    y = conv(x, weight, stride, padding)
    np.testing.assert_allclose(y, naive(x, weight, stride, padding), rtol=1e-12, atol=1e-12)
    g = rng.standard_normal(y.shape)
    inner = (g * y).sum()
    assert (conv_input(g, weight, x.shape, stride, padding) * x).sum() == pytest.approx(inner, rel=1e-11)
    assert (conv_weight(x, g, kernel, stride, padding) * weight).sum() == pytest.approx(inner, rel=1e-11)


@pytest.mark.parametrize("geometry", [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 1, 0)])
def test_pooling_and_its_gradients(geometry: tuple[int, int, int]) -> None:
    kernel, stride, padding = geometry
    rng = np.random.default_rng(0)
    x = different(rng, 2, 3, 6, 7).astype(np.float64)
    y, place = max_pool(x, *geometry)
    wide = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    np.testing.assert_array_equal(y, windows.max((-1, -2)))
    g = rng.standard_normal(y.shape)
    gx = max_pool_input(g, place, x.shape, *geometry)
    assert (gx * x).sum() == pytest.approx((g * y).sum(), rel=1e-12)
    np.testing.assert_array_equal((gx != 0).sum((2, 3)) <= g[0, 0].size, True)

    windows = np.where(np.isfinite(windows), windows, 0.0)
    mean = avg_pool(x, *geometry)
    np.testing.assert_allclose(mean, windows.mean((-1, -2)), rtol=1e-12, atol=1e-14)
    inner = (avg_pool_input(g, x.shape, *geometry) * x).sum()
    assert inner == pytest.approx((g * mean).sum(), rel=1e-11)


def test_gradients_of_a_network_are_its_derivatives() -> None:
    """Every kind of layer, along one random direction of all parameters."""
    residual = Sum(Chain(Conv(4, 6, 3, 2), Norm(6)), Chain(Conv(4, 6, 1, 2), Norm(6)))
    features = Conv(3, 4), Norm(4), ReLU(), MaxPool(), residual, ReLU(), Sum(Chain(Conv(6, 6)), Chain()), ReLU()
    hidden = Flatten(), Linear(6 * 4, 5, bias=False), Norm(5, pictures=False), ReLU(), Linear(5, 10)
    rng = np.random.default_rng(3)
    x, classes = rng.standard_normal((6, 3, 8, 8)), rng.integers(0, 10, 6)
    for network in (Chain(*features, *hidden), Chain(*features, Mean(), Flatten(), Linear(6, 10))):
        p = [a.astype(np.float64) + 0.1 * rng.standard_normal(a.shape) for a in network.start(rng)]
        _, grads = gradients(network, p, x, classes)
        direction = [rng.standard_normal(a.shape) for a in p]
        h = 1e-6
        plus, minus = (
            gradients(network, [a + s * h * d for a, d in zip(p, direction)], x, classes)[0] for s in (1, -1)
        )
        slope = sum((g * d).sum() for g, d in zip(grads, direction))
        assert (plus - minus) / (2 * h) == pytest.approx(slope, rel=1e-5)


def test_networks_have_their_sizes() -> None:
    """Parameters, and multiply-adds of one picture forward: 41 million for ResNet-20."""
    rng = np.random.default_rng(0)
    for network, parameters, adds in ((w2.network(), 2_169_066, 26_579_968), (w3.network(), 272_474, 40.9e6)):
        assert sum(a.size for a in network.start(rng)) == parameters
        shape, count = network.size((3, 32, 32))
        assert shape == (10,)
        assert count == pytest.approx(adds, rel=0.01)


@pytest.mark.parametrize("name", ["w2_cifar_cnn/step", "pool/max_2x2/32x32x32x32", "conv/128x64x8x64/backward_weight"])
def test_inputs_repeat(name: str) -> None:
    (case,) = select(discover(), f"^{name}$")
    first, again, other = inputs_of(case), inputs_of(case), inputs_of(case, seed=1)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert any(not np.array_equal(first[k], other[k]) for k in first)


def test_numbers_to_take_maxima_of_are_all_different() -> None:
    x = different(np.random.default_rng(0), 4, 100, 100)
    assert np.unique(x).size == x.size
    assert -1 <= x.min() < x.max() < 1
