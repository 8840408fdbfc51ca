"""Reductions over the middle axis of an array seen as (A, R, B): y_ab = reduce_r x_arb.

Rows (B = 1) are summed in blocks of 1,024 in float32 lanes, the blocks in float64. Columns (B > 1) are summed a
register of them at a time with Kahan's compensation, which needs no wider type. Either order is fixed by the shape
alone: any number of threads gives the same bits.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import REDUCE, jit, parallel
from tinygrad_bn.kernels.cpu.simd import lanes, load_first, splat, store_first, unless_nan, zeros
from tinygrad_bn.kernels.ref.reduction import sum_int

__all__ = ["extreme", "sum", "sum_int"]

BLOCK = 1024


@jit(fastmath=REDUCE)
def block_sum(x: Any) -> Any:
    """The sum of a short row, in its own type."""
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i]
    return total


@jit()
def row_sum(x: Any) -> Any:
    """The sum of a row in float64, block by block."""
    total = 0.0
    for lo in range(0, x.size, BLOCK):
        total += block_sum(x[lo : min(x.size, lo + BLOCK)])
    return total


@jit()
def column_sums(x: Any, start: Any, rows: Any, stride: Any, n: Any) -> Any:
    """Σ_r x[start + r · stride + lane] for the first n lanes, by Kahan's summation; infinities survive."""
    total = zeros(x)
    lost = zeros(x)
    plain = zeros(x)
    for r in range(rows):
        v = load_first(x, start + r * stride, n)
        y = v - lost
        t = total + y
        lost = (t - total) - y
        total = t
        plain = plain + v
    return unless_nan(total, plain)  # compensation makes NaN of an infinite sum; the plain one tells which it is


@parallel(work="x", grain=1 << 17)
def sum(x: Any, scale: Any, out: Any) -> None:
    a, r, b = x.shape
    if b == 1:
        flat = x.reshape(a, r)
        for i in prange(a):
            out[i, 0] = row_sum(flat[i]) * scale
    else:
        width = lanes(x)
        chunks = -(-b // width)
        factor = splat(x.dtype.type(scale))
        for j in prange(a * chunks):
            i = j // chunks
            lo = j % chunks * width
            store_first(out, i * b + lo, column_sums(x, i * r * b + lo, r, b, b - lo) * factor, b - lo)


@jit()
def extreme(x: Any, largest: Any, out: Any, index: Any) -> None:
    for i in range(x.shape[0]):
        for b in range(x.shape[2]):
            best = x[i, 0, b]
            at = 0
            for r in range(1, x.shape[1]):
                v = x[i, r, b]
                beats = v > best if largest else v < best
                if (beats or v != v) and best == best:
                    best = v
                    at = r
            out[i, b] = best
            index[i, b] = at
