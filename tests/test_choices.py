"""Choices between lanes, moves of pairs and lanes kept as integers, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinygrad_bn.kernels.cpu import choices, simd
from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.vector import WIDTH

pytestmark = pytest.mark.jit_off


@jit()
def chosen(a: Any, out: Any) -> None:
    n = simd.lanes(a)
    v, w = simd.load(a, 0), simd.load(a, n)
    simd.store(out, 0, choices.where_larger(v, w, v, w))
    simd.store(out, n, choices.where_larger_or_nan(v, w, v, w))
    simd.store(out, 2 * n, choices.where_equal(v, w, v, simd.zeros(a)))
    simd.store(out, 3 * n, choices.evens(v, w))
    simd.store(out, 4 * n, choices.odds(v, w))
    simd.store(out, 5 * n, choices.zip_low(v, w))
    simd.store(out, 6 * n, choices.zip_high(v, w))
    out[7 * n] = choices.peak(w)


@jit()
def kept(a: Any, n: Any, whole: Any, out: Any) -> None:
    v = simd.load(a, 0)
    size = simd.lanes(a)
    choices.store_whole(whole, 0, v)
    choices.store_whole_first(whole, size, v, n)
    simd.store(out, 0, choices.load_whole(whole, 0, v))
    simd.store(out, size, choices.load_whole_first(whole, size, n, v))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lanes_are_chosen(dtype: str) -> None:
    n = WIDTH // np.dtype(dtype).itemsize
    a = np.random.default_rng(0).integers(-2, 3, 2 * n).astype(dtype)
    a[0] = np.nan
    v, w = a[:n], a[n:]
    out = np.zeros(7 * n + 1, dtype)
    with np.errstate(invalid="ignore"):
        chosen(a, out)
        mixed = np.stack([v, w], 1).ravel()
        want = [np.where(v > w, v, w), np.where((v > w) | np.isnan(v), v, w), np.where(v == w, v, 0), a[::2], a[1::2]]
    np.testing.assert_array_equal(out, np.concatenate([*want, mixed, [w.max()]]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("integers", [np.int8, np.int32])
def test_lanes_are_kept_as_integers(dtype: str, integers: Any) -> None:
    n = WIDTH // np.dtype(dtype).itemsize
    a = np.random.default_rng(0).integers(-100, 100, n).astype(dtype)
    for few in (0, 1, n - 1, n, n + 3):
        whole, out = np.full(2 * n, 7, integers), np.zeros(2 * n, dtype)
        kept(a, few, whole, out)
        first = np.arange(n) < few
        np.testing.assert_array_equal(whole, np.concatenate([a, np.where(first, a, 7)]))
        np.testing.assert_array_equal(out, np.concatenate([a, np.where(first, a, 0)]))
