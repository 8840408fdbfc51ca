"""Convolutions that go by Winograd's algorithm: when they do, how exact they are, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.core import launch
from tinygrad_bn.core.device import cpu, ref
from tinygrad_bn.core.dtype import float32, float64
from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.ops import _winograd
from tinygrad_bn.ops._geometry import Geometry, windows

F = tb.nn.functional


def geometry(**changes: Any) -> Geometry:
    given_ = {"size": (9, 9), "kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
    return windows("conv2d", **{**given_, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pays", "arguments"),
    [
        (True, (8, 8, geometry(), float32, cpu)),
        (True, (64, 8, geometry(padding=((0, 0), (2, 2))), float32, cpu)),
        (False, (7, 8, geometry(), float32, cpu)),
        (False, (8, 7, geometry(), float32, cpu)),
        (False, (8, 8, geometry(), float64, cpu)),
        (False, (8, 8, geometry(), float32, ref)),
        (False, (8, 8, geometry(kernel=(3, 5)), float32, cpu)),
        (False, (8, 8, geometry(stride=(2, 1)), float32, cpu)),
        (False, (8, 8, geometry(dilation=(1, 2)), float32, cpu)),
        (False, (8, 8, geometry(groups=2), float32, cpu)),
        (False, (8, 8, geometry(size=(5, 9), padding=((0, 0), (0, 0))), float32, cpu)),
    ],
)
def test_when_it_pays(pays: bool, arguments: tuple[Any, ...]) -> None:
    assert _winograd.pays(*arguments) is pays


def launched(run: Any) -> set[str]:
    names: set[str] = set()

    def watch(kernel: Kernel, arguments: tuple[Any, ...], go: Any) -> None:
        names.add(kernel.name)
        go()

    launch.observers.append(watch)
    try:
        run()
    finally:
        launch.observers.pop()
    return names


def three(x: np.ndarray, w: np.ndarray, b: np.ndarray, g: np.ndarray, padding: Any, device: Any) -> list[np.ndarray]:
    """The result and the gradients of x, w and b."""
    tensors = [tb.tensor(a, device=device, requires_grad=True) for a in (x, w, b)]
    y = F.conv2d(*tensors, padding=padding)
    y.backward(tb.tensor(g, device=device))
    return [np.asarray(y.detach().numpy(), np.float64)] + [np.asarray(t.grad.numpy(), np.float64) for t in tensors]


def problem(rng: Any, n: int, c: int, k: int, h: int, w: int, padding: tuple[int, int]) -> tuple[np.ndarray, ...]:
    rows, columns = h + 2 * padding[0] - 2, w + 2 * padding[1] - 2
    shapes = ((n, c, h, w), (k, c, 3, 3), (k,), (n, k, rows, columns))
    return tuple(rng.standard_normal(s).astype(np.float32) for s in shapes)


@given(st.data())
def test_agrees_with_the_direct_sum_in_float64(data: st.DataObject) -> None:
    draw = data.draw
    padding = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    n, c, k = draw(st.integers(1, 3)), draw(st.integers(8, 40)), draw(st.integers(8, 40))
    h, w = draw(st.integers(6, 20)), draw(st.integers(6, 40))
    arrays = problem(np.random.default_rng(draw(st.integers(0, 99))), n, c, k, h, w, padding)
    names = launched(lambda: three(*arrays, padding, "cpu"))
    assert {"winograd_convolution", "winograd_gradient"} <= names
    assert "im2col" not in names
    exact = three(*(a.astype(np.float64) for a in arrays), padding, "cpu")
    for ours, wanted, depth in zip(three(*arrays, padding, "cpu"), exact, (c, k, n * h * w, 0), strict=True):
        assert np.abs(ours - wanted).max() <= 1e-6 * max(1.0, depth) ** 0.5 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_accuracy_for_normal_data(channels: int) -> None:
    """Within 4e-7 √C of the largest result, forward and backward; the filters' gradient as exact as a direct sum."""
    rng = np.random.default_rng(0)
    arrays = problem(rng, 2, channels, channels, 16, 16, (1, 1))
    exact = three(*(a.astype(np.float64) for a in arrays), 1, "cpu")
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(three(*arrays, 1, "cpu"), exact, strict=True)]
    assert max(errors[:2]) < 4e-7 * channels**0.5
    assert errors[2] < 4e-6


def test_sums_of_many_channels_are_formed_stretch_by_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = problem(np.random.default_rng(0), 3, 96, 100, 21, 33, (1, 1))
    monkeypatch.setattr(_winograd, "ROOM", 1 << 18)
    found: list[np.ndarray] = []
    names = launched(lambda: found.extend(three(*arrays, 1, "cpu")))
    assert {"winograd_points", "winograd_products"} <= names
    assert "winograd_gradient" not in names
    exact = three(*(a.astype(np.float64) for a in arrays), 1, "cpu")[2]
    assert np.abs(found[2] - exact).max() < 4e-6 * np.abs(exact).max()


def test_a_large_offset_costs_what_it_costs_a_direct_sum() -> None:
    """Errors are relative to the inputs' size, in either algorithm: of pictures with an offset of 1,000, to 1,000."""
    rng = np.random.default_rng(0)
    x, w, b, g = problem(rng, 1, 16, 16, 16, 16, (1, 1))
    x = x + np.float32(1000)
    got = three(x, w, b, g, 1, "cpu")[0]
    exact = three(*(a.astype(np.float64) for a in (x, w, b, g)), 1, "cpu")[0]
    assert np.abs(got - exact).max() < 4e-7 * 4 * np.abs(exact).max()


@pytest.mark.parametrize("channels", [(17, 19), (96, 100)])
def test_bits_for_1_and_2_threads(channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_winograd, "ROOM", 1 << 18)
    arrays = problem(np.random.default_rng(0), 3, *channels, 21, 33, (1, 1))
    found = []
    before = tb.get_num_threads()
    try:
        for threads in range(1, launch.pool.limit + 1):
            tb.set_num_threads(threads)
            found.append(three(*arrays, 1, "cpu"))
    finally:
        tb.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_values_that_are_not_finite_show() -> None:
    arrays = problem(np.random.default_rng(0), 1, 8, 8, 8, 8, (1, 1))
    for value in (np.nan, np.inf):
        arrays[0][0, 3, 4, 4] = value
        y = three(*arrays, 1, "cpu")[0]
        assert not np.isfinite(y[:, :, 3:6, 3:6]).any()


def test_transforms_of_numpy_arrays() -> None:
    """One definition serves every compiler: the one-dimensional algorithm, written with it, is a correlation."""
    rng = np.random.default_rng(0)
    x, g, k = rng.standard_normal((6, 50)), rng.standard_normal((3, 50)), winograd.constants(float)
    v, u = winograd.input_transform(*x, k), winograd.filter_transform(*g, winograd.FILTER)
    y = winograd.output_transform(*(a * b for a, b in zip(u, v, strict=True)), k)
    wanted = [(x[i : i + 3] * g).sum(0) for i in range(4)]
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-13)
    gy = rng.standard_normal((4, 50))
    adjoint = sum((a * b).sum() for a, b in zip(winograd.result_transform(*gy, k), x, strict=True))
    assert adjoint == pytest.approx(
        sum((a * b).sum() for a, b in zip(winograd.output_transform(*x, k), gy, strict=True))
    )
    adjoint = sum((a * b).sum() for a, b in zip(winograd.filter_gradient(*x, winograd.FILTER), g, strict=True))
    assert adjoint == pytest.approx(sum((a * b).sum() for a, b in zip(u, x, strict=True)))
