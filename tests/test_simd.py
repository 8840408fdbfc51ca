"""The vector type against its NumPy twin, and against memory that ends where the array ends."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_bn.kernels.cpu import _twin as twin
from tinygrad_bn.kernels.cpu import choices, shuffles, simd, streams
from tinygrad_bn.kernels.cpu._jit import ENABLED, jit
from tinygrad_bn.kernels.cpu.vector import WIDTH

pytestmark = pytest.mark.jit_off

Array = np.ndarray[Any, Any]
LANES = {"float32": WIDTH // 4, "float64": WIDTH // 8}


@jit()
def arithmetic(a: Any, b: Any, out: Any) -> None:
    n = simd.lanes(a)
    x, y = simd.load(a, 0), simd.load(b, 0)
    simd.store(out, 0, x + y)
    simd.store(out, n, x - y)
    simd.store(out, 2 * n, x * y)
    simd.store(out, 3 * n, x / y)
    simd.store(out, 4 * n, simd.fma(x, y, x))
    simd.store(out, 5 * n, simd.sqrt(x * x))
    simd.store(out, 6 * n, x * a[0])
    simd.store(out, 7 * n, simd.splat(b[1]) + x)


@jit()
def selection(a: Any, b: Any, n: Any, out: Any) -> None:
    w = simd.lanes(a)
    x, y = simd.load(a, 0), simd.load(b, 0)
    simd.store(out, 0, simd.largest(x, y))
    simd.store(out, w, simd.where_positive(x, y))
    simd.store(out, 2 * w, simd.unless_nan(x, y))
    simd.store(out, 3 * w, simd.first(x, n))
    simd.store(out, 4 * w, simd.zeros(a))


@jit()
def partly(a: Any, i: Any, n: Any, out: Any) -> None:
    simd.store_first(out, i, simd.load_first(a, i, n), n)


@jit()
def totals(a: Any, out: Any) -> None:
    w = simd.lanes(a)
    out[0] = simd.total(simd.load(a, 0))
    out[1] = simd.lane(simd.load(a, 0), 1)
    simd.store_totals(out, 2, simd.load(a, 0), simd.load(a, w), simd.load(a, 2 * w), simd.load(a, 3 * w))


@jit()
def reordered(a: Any, out: Any) -> None:
    w = simd.lanes(a)
    simd.store(out, 0, shuffles.load_every(a, 2, 1, 4))
    simd.store(out, w, shuffles.load_every(a, 0, 8, 9))
    shuffles.store_every4(out, 2 * w, simd.load(a, 0), simd.load(a, w), simd.load(a, 2 * w), simd.load(a, 3 * w))


@jit()
def streamed(a: Any, b: Any, n: Any, skew: Any, out: Any) -> None:
    """Both, blended after n lanes, to the first place of a register that begins at or behind ``skew``."""
    w = simd.lanes(a)
    at = -(streams.misaligned(out) + skew) % w + skew
    streams.stream(out, at, streams.blend(simd.load(a, 0), simd.load(b, 0), n))
    streams.settle()


@jit()
def exponential(a: Any, out: Any) -> None:
    simd.store(out, 0, simd.exp(simd.load(a, 0)))
    simd.store(out, simd.lanes(a), simd.smallest(simd.load(a, 0), simd.load(a, 1)))


def drawn(dtype: str, count: int, seed: int, specials: bool = False) -> Array:
    rng = np.random.default_rng(seed)
    out = rng.standard_normal(count)
    if specials:
        out[rng.random(count) < 0.4] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0])
    return out.astype(dtype)


@given(st.sampled_from(["float32", "float64"]), st.integers(0, 2**32 - 1))
def test_arithmetic(dtype: str, seed: int) -> None:
    n = LANES[dtype]
    a, b = drawn(dtype, n, seed), drawn(dtype, n, seed + 1)
    out = np.zeros(8 * n, dtype)
    arithmetic(a, b, out)
    want = [a + b, a - b, a * b, a / b, a * b + a, np.abs(a), a * a[0], b[1] + a]
    # only a multiplication followed by an addition may be rounded once instead of twice
    for i, w in enumerate(want):
        np.testing.assert_allclose(
            out[i * n : (i + 1) * n], w, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps if i == 4 else 0
        )


@given(st.sampled_from(["float32", "float64"]), st.integers(0, 2**32 - 1), st.integers(0, 20))
def test_selection(dtype: str, seed: int, n: int) -> None:
    """NaN stays in ``largest`` and ``where_positive``; nothing else is touched."""
    w = LANES[dtype]
    a, b = drawn(dtype, w, seed, specials=True), drawn(dtype, w, seed + 1)
    out = np.full(5 * w, 7.0, dtype)
    selection(a, b, n, out)
    nan = np.isnan(a)
    positive = np.where(nan, a, np.where(np.where(nan, 0, a) > 0, b, 0))
    want = [
        np.where(nan, a, np.maximum(a, b)),
        positive,
        np.where(nan, b, a),
        np.where(np.arange(w) < n, a, 0),
        np.zeros(w),
    ]
    for i, v in enumerate(want):
        np.testing.assert_array_equal(out[i * w : (i + 1) * w], v)


@given(st.sampled_from(["float32", "float64"]), st.integers(0, 5), st.integers(0, 20))
def test_partial_access_touches_no_more_than_it_says(dtype: str, i: int, n: int) -> None:
    a = np.arange(40, dtype=dtype)
    out = np.full(40, -1.0, dtype)
    n = min(n, LANES[dtype])
    partly(a, i, n, out)
    want = np.full(40, -1.0, dtype)
    want[i : i + n] = a[i : i + n]
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moves_that_reorder(dtype: str) -> None:
    w = LANES[dtype]
    a = np.arange(w * max(w + 2, 10), dtype=dtype)
    out = np.full(6 * w, -1.0, dtype)
    reordered(a, out)
    np.testing.assert_array_equal(out[:w], a[3 : 3 + 4 * w : 4])
    np.testing.assert_array_equal(out[w : 2 * w], a[8 : 8 + 9 * w : 9][:w])
    np.testing.assert_array_equal(out[2 * w :], a[: 4 * w].reshape(4, w).T.ravel())


@given(st.sampled_from(["float32", "float64"]), st.integers(0, 20), st.integers(0, 40), st.integers(0, 20))
def test_streamed_stores(dtype: str, n: int, skew: int, start: int) -> None:
    """Whole registers at multiples of their size, wherever the array begins."""
    w = LANES[dtype]
    a, b = np.arange(w, dtype=dtype), -np.arange(w, dtype=dtype) - 1
    out = np.full(100, 77.0, dtype)[start:]
    streamed(a, b, n, skew, out)
    (places,) = np.nonzero(out != 77.0)
    at = int(places[0])
    assert 0 <= at - skew < w
    assert (out.ctypes.data + at * out.itemsize) % WIDTH == 0
    np.testing.assert_array_equal(out[at : at + w], np.where(np.arange(w) < n, a, b))
    assert (out != 77.0).sum() == w


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponentials_of_registers(dtype: str) -> None:
    """Infinity where it overflows, subnormals and 0 below, NaN stays."""
    w = LANES[dtype]
    values = [
        0.0,
        1.0,
        -1.0,
        88.0,
        89.0,
        -87.0,
        -95.0,
        -104.0,
        710.0,
        -746.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-6,
        3.5,
        -20.0,
    ]
    for start in range(0, len(values), w):
        a = np.resize(np.array(values, dtype)[start:], w + 1)
        out = np.zeros(2 * w, dtype)
        exponential(a, out)
        with np.errstate(over="ignore", under="ignore"):
            exact = np.exp(a[:w].astype(np.longdouble)).astype(dtype)
        tiny = np.finfo(dtype).smallest_subnormal
        np.testing.assert_allclose(out[:w], exact, rtol=4 * np.finfo(dtype).eps, atol=4 * float(tiny))
        np.testing.assert_array_equal(out[w:], np.where(np.isnan(a[:w]), a[:w], np.fmin(a[:w], a[1:])))


@given(st.sampled_from(["float32", "float64"]), st.integers(0, 2**32 - 1))
def test_totals(dtype: str, seed: int) -> None:
    """Halves added to halves: the same bits as the twin's, one vector at a time or four."""
    w = LANES[dtype]
    a = drawn(dtype, 4 * w, seed)
    out = np.zeros(6, dtype)
    totals(a, out)

    def halves(v: Array) -> Any:
        while v.size > 1:
            v = v[: v.size // 2] + v[v.size // 2 :]
        return v[0]

    want = [halves(a[:w]), a[1], *[halves(a[k * w : (k + 1) * w]) for k in range(4)]]
    assert out[:2].tolist() == want[:2]
    np.testing.assert_allclose(out[2:], want[2:], rtol=0, atol=8 * np.finfo(dtype).eps * np.abs(a).max() * w)


def test_the_twin_has_every_name() -> None:
    """With the JIT off, kernels find in ``simd`` what they find with it on."""
    public = {n for n in vars(twin) if not n.startswith("_") and callable(getattr(twin, n)) and n != "Any"}
    assert public <= {name for module in (simd, choices, shuffles, streams) for name in vars(module)}
    assert {"load", "store", "fma", "total", "store_totals", "array_at"} <= public


def test_the_twin_checks_what_it_accesses() -> None:
    a = np.zeros(40, np.float32)
    for access in (
        lambda: twin.load(a, 30),
        lambda: twin.load_first(a, 38, 3),
        lambda: twin.store(a, -1, twin.zeros(a)),
        lambda: twin.store_first(a, 39, twin.zeros(a), 2),
    ):
        with pytest.raises(IndexError, match="vector access to elements"):
            access()
    with pytest.raises(ValueError, match="C-contiguous"):
        twin.load(np.zeros((9, 9), np.float32).T, 0)


def test_arrays_by_address() -> None:
    @jit()
    def double(address: Any, n: Any, like: Any) -> None:
        x = simd.array_at(address, n, like)
        for i in range(n):
            x[i] *= 2

    for dtype in ("float32", "float64"):
        a = np.arange(5, dtype=dtype)
        double(a.ctypes.data, 5, np.empty(0, dtype))
        assert a.tolist() == [0, 2, 4, 6, 8]


# --------------------------------------------------------------------------------------- arrays at the end of a page

GUARDED = Path(__file__).parent / "check_modes" / "guarded_pages.py"


def guarded(what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(GUARDED), what], capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.skipif(
    not ENABLED or not hasattr(mmap, "PAGESIZE") or os.name != "posix", reason="needs compiled kernels and POSIX"
)
def test_kernels_stay_within_their_arrays() -> None:
    """Every array ends at a page that may not be touched."""
    found = guarded("kernels")
    assert found.returncode == 0, (found.returncode, found.stdout[-500:], found.stderr[-2000:])
    assert found.stdout.split()[-1] == "intact"


@pytest.mark.skipif(not ENABLED or os.name != "posix", reason="needs compiled kernels and POSIX")
def test_a_kernel_that_reads_past_its_array_is_killed() -> None:
    """The guard is alive: a planted fault does not survive."""
    assert guarded("fault").returncode < 0
