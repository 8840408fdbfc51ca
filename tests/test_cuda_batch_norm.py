"""Normalisation on the GPU where its parts meet: large means, shares of a batch, odd runs, grids, low precision.

On a GPU where there is one, else in the simulator (NUMBA_ENABLE_CUDASIM=1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinygrad_bn import cuda
from tinygrad_bn.core.device import as_device, ref
from tinygrad_bn.core.dtype import bfloat16, numbers

pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")
Array = np.ndarray[Any, Any]
rng = np.random.default_rng(0)


def blank(*shape: int, dtype: Any = np.float32) -> Array:
    return np.full(shape, 0xFFFF if np.dtype(dtype).kind == "u" else np.nan, dtype)


def on_gpu(name: str, *arguments: Any) -> list[Array]:
    """Run a kernel; the arrays as it leaves them."""
    gpu = as_device("cuda")
    there = [gpu.array(a) if isinstance(a, np.ndarray) else a for a in arguments]
    getattr(gpu.kernels, name).serial(*there)
    return [gpu.to_host(a) for a in there if isinstance(a, np.ndarray)]


def train(
    x: Array, cuts: int, act: int = 0, weight: Array | None = None, bias: Array | None = None
) -> tuple[Array, Array]:
    """y and the statistics."""
    c = x.shape[1]
    w, b = (np.empty(0, np.float32) if a is None else a for a in (weight, bias))
    found = on_gpu(
        "batch_norm_train", x, w, b, 1e-5, act, 0.0,
        blank(*x.shape, dtype=x.dtype), blank(4, c), blank(c, cuts, 3, dtype=np.float64),
    )  # fmt: skip
    return found[3], found[4]


def backward(gy: Array, x: Array, statistics: Array, act: int, cuts: int) -> list[Array]:
    """gx, gweight and gbias."""
    c, none = x.shape[1], np.empty(0, np.float32)
    outputs = blank(*x.shape, dtype=x.dtype), blank(c), blank(c)
    found = on_gpu(
        "batch_norm_backward", gy, x, none, none, statistics, act, 0.0, *outputs, blank(c, cuts, 3, dtype=np.float64)
    )
    return found[5:8]


def of_ref(x: Array, gy: Array, act: int) -> tuple[Array, Array, list[Array]]:
    """y, statistics and the gradients, in float64."""
    wide, c, none = x.astype(np.float64), x.shape[1], np.empty(0)
    y, rows, gx, gweight, gbias = np.empty(x.shape), np.empty((4, c)), np.empty(x.shape), np.empty(c), np.empty(c)
    parts = np.empty((c, 1, 3))
    ref.kernels.batch_norm_train.serial(wide, none, none, 1e-5, act, 0.0, y, rows, parts)
    g = gy.astype(np.float64)
    ref.kernels.batch_norm_backward.serial(g, wide, none, none, rows, act, 0.0, gx, gweight, gbias, parts)
    return y, rows, [gx, gweight, gbias]


SHAPES = [
    (3, 2, 36, 1),
    (2, 3, 64, 2),
    (5, 2, 33, 3),
    (2, 1, 100, 40),
    (7, 5, 1, 2),
    (9, 3, 7, 3),
    (40, 4, 3, 35),
    (6, 40, 4, 2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mean_of_1e6_costs_no_accuracy(shape: tuple[int, int, int, int]) -> None:
    """Rows and columns, units of one element and of four, few shares of a channel and more than a block merges."""
    n, c, length, cuts = shape
    x = (rng.standard_normal((n, c, length)) + 1e6).astype(np.float32)
    gy = rng.standard_normal(x.shape).astype(np.float32)
    y, rows, gradients = of_ref(x, gy, 0)
    ours, statistics = train(x, cuts)
    np.testing.assert_allclose(ours, y, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(statistics[2], rows[2], rtol=1e-3)
    np.testing.assert_allclose(statistics[0].astype(np.float64) + statistics[1], rows[0], rtol=0, atol=1e-4)
    for name, a, b in zip(("gx", "gweight", "gbias"), backward(gy, x, statistics, 0, cuts), gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max(), err_msg=name)


@pytest.mark.parametrize("shape", [(2, 3, 64, 2), (9, 3, 7, 3), (50, 2, 1, 40)], ids=str)
def test_constant_channel_gives_exactly_bias(shape: tuple[int, int, int, int]) -> None:
    n, c, length, cuts = shape
    values = np.array([0.1, -1e6, 3.0][:c], np.float32)
    bias = np.array([0.5, -2.0, 7.0][:c], np.float32)
    x = np.broadcast_to(values[:, None], (n, c, length)).copy()
    y, statistics = train(x, cuts, bias=bias)
    np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None], x.shape))
    np.testing.assert_array_equal(statistics[:3], [values, 0 * values, 0 * values])


@pytest.mark.parametrize("shape", [(3, 2, 64, 3), (40, 6, 1, 35)], ids=str)
def test_results_are_equal_in_every_run(shape: tuple[int, int, int, int]) -> None:
    n, c, length, cuts = shape
    x, gy = (rng.standard_normal((n, c, length)).astype(np.float32) for _ in range(2))
    first, second = ([*train(x, cuts, 1), *backward(gy, x, train(x, cuts, 1)[1], 1, cuts)] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("length", [1, 2])
def test_batch_of_more_samples_than_a_grid_has_room_for(length: int) -> None:
    n = 66_000
    x = np.ones((n, 1, length), np.float32)
    x[::3] = -2
    y, statistics = train(x, 1)
    np.testing.assert_allclose(statistics[0] + statistics[1], x.mean((0, 2)), atol=1e-6)
    np.testing.assert_allclose(y, x * np.float32(1 / np.sqrt(2 + 1e-5)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(3, 2, 64, 2), (9, 2, 3, 2)], ids=str)
def test_what_is_not_finite_stays_in_its_channel(shape: tuple[int, int, int, int], bad: float) -> None:
    n, c, length, cuts = shape
    x = rng.standard_normal((n, c, length)).astype(np.float32)
    x[1, 1, 2] = bad
    y, statistics = train(x, cuts, 1)
    assert np.isfinite(y[:, 0]).all()
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(statistics[:, 0]).all()
    assert not np.isfinite(statistics[[0, 2], 1]).any()


LOW = [(3, 2, 64, 2), (3, 2, 36, 2), (3, 2, 33, 1), (9, 4, 1, 2), (5, 3, 7, 1)]


def rounded(x: Array, kind: str) -> Array:
    """An array of low precision as it is stored: of bfloat16, words."""
    if kind == "float16":
        return x.astype(np.float16)
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def widened(x: Array, kind: str) -> Array:
    return x.astype(np.float32) if kind == "float16" else numbers(x, bfloat16)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", LOW, ids=str)
def test_low_precision_is_float32_rounded(shape: tuple[int, int, int, int], kind: str) -> None:
    """Units of 8, of 4 and of 1, by rows; of 4 and of 1, by columns."""
    n, c, length, cuts = shape
    x, gy = (rounded(rng.standard_normal((n, c, length)).astype(np.float32) + 1, kind) for _ in range(2))
    wide, gwide = widened(x, kind), widened(gy, kind)
    y, rows, gradients = of_ref(wide, gwide, 1)
    ours, statistics = train(x, cuts, 1)
    near = 2.0**-8 if kind == "bfloat16" else 2.0**-11
    np.testing.assert_allclose(statistics, rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(widened(ours, kind), y, rtol=1.01 * near, atol=1e-5)
    gx, gweight, gbias = backward(gy, x, statistics, 1, cuts)
    np.testing.assert_allclose(widened(gx, kind), gradients[0], rtol=1.01 * near, atol=1e-5)
    np.testing.assert_allclose(gweight, gradients[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gbias, gradients[2], rtol=1e-4, atol=1e-4)


def test_bfloat16_words_are_rounded_to_even_and_keep_nan() -> None:
    x = np.array([[[np.nan] + [0.0] * 31], [[1.0] * 32]], np.float32)
    assert (np.isnan(widened(train(rounded(x, "bfloat16"), 1)[0], "bfloat16"))).all()
    statistics = np.array([[0], [0], [1], [1]], np.float32)
    steps = (1 + np.arange(32) * 2.0**-8).astype(np.float32)[None, None]  # halfway between two words, every second one
    none = np.empty(0, np.float32)
    given = rounded(np.zeros((1, 1, 32), np.float32), "bfloat16")
    for i, value in enumerate(steps[0, 0]):
        found = on_gpu("batch_norm_given", given, none, none, np.array([value]), statistics, 0, 0.0, given.copy())[-1]
        assert (found == rounded(steps, "bfloat16")[0, 0, i]).all()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(4, 1, 24, 1), (3, 2, 2, 40), (3, 2, 3, 33), (40, 1, 6, 1), (2, 3, 4, 5)], ids=str)
def test_group_norm_of_every_layout_and_type(shape: tuple[int, int, int, int], kind: str) -> None:
    x, gy = (rng.standard_normal(shape).astype(np.float32) + 1 for _ in range(2))
    if kind != "float32":
        x, gy = rounded(x, kind), rounded(gy, kind)
    wide, gwide = (widened(a, kind) if kind != "float32" else a for a in (x, gy))
    rows, channels, parts = shape[0] * shape[1], shape[1] * shape[2], 2
    weight, bias = (rng.uniform(0.5, 2, channels).astype(np.float32) for _ in range(2))
    y, statistics, gx, gweight, gbias = (
        np.empty(shape),
        np.empty((4, rows)),
        np.empty(shape),
        np.empty(channels),
        np.empty(channels),
    )
    scratch = np.empty(0), np.empty((parts, 2, channels))
    ref.kernels.group_norm.serial(wide.astype(np.float64), weight, bias, 1e-5, y, statistics)
    theirs = wide.astype(np.float64), weight, statistics, gx, gweight, gbias, *scratch
    ref.kernels.group_norm_backward.serial(gwide.astype(np.float64), *theirs)
    ours = on_gpu("group_norm", x, weight, bias, 1e-5, blank(*shape, dtype=x.dtype), blank(4, rows))
    found = on_gpu(
        "group_norm_backward", gy, x, weight, ours[4], blank(*shape, dtype=x.dtype), blank(channels), blank(channels),
        np.empty((0, 2, channels), np.float32), blank(parts, 2, channels, dtype=np.float64),
    )  # fmt: skip
    near = {"float32": 1e-5, "bfloat16": 1.01 * 2.0**-8, "float16": 1.01 * 2.0**-11}[kind]
    for a, b in ((ours[3], y), (found[4], gx)):
        np.testing.assert_allclose(widened(a, kind) if kind != "float32" else a, b, rtol=near, atol=2e-5)
    np.testing.assert_allclose(found[5], gweight, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[6], gbias, rtol=1e-4, atol=1e-4)
