"""Reductions over the middle axis of an array seen as (A, R, B): y_ab = reduce_r x_arb.

Rows (B = 1) are summed in blocks of 1,024 by four registers, short ones by one, the blocks in float64; a single long
row in shares of ``SHARE`` elements. Columns (B > 1) are summed a register of them at a time with Kahan's compensation,
which needs no wider type. Either order is fixed by the shape alone: any number of threads gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.simd import (
    lanes,
    load,
    load_first,
    pointer_to,
    splat,
    store_first,
    total,
    unless_nan,
    zeros,
)
from tinygrad_bn.kernels.ref.reduction import SHARE, sum_int

__all__ = ["extreme", "sum", "sum_all", "sum_int"]

BLOCK = 1024
SHORT = 256


@jit(inline=True)
def short_sum(x: Any, at: Any, n: Any) -> Any:
    """The sum of x[at : at + n], at most ``SHORT`` elements; x is a pointer."""
    size = lanes(x)
    added = zeros(x)
    whole = at + n // size * size
    for i in range(at, whole, size):
        added = added + load(x, i)
    if whole < at + n:
        added = added + load_first(x, whole, at + n - whole)
    return total(added)


@jit()
def row_sum(x: Any, at: Any, n: Any) -> Any:
    """The sum of x[at : at + n] in float64, block by block; x is a pointer."""
    size = lanes(x)
    added = 0.0
    for lo in range(at, at + n, BLOCK):
        hi = min(at + n, lo + BLOCK)
        s0, s1, s2, s3 = zeros(x), zeros(x), zeros(x), zeros(x)
        quads = lo + (hi - lo) // (4 * size) * (4 * size)
        for i in range(lo, quads, 4 * size):
            s0 = s0 + load(x, i)
            s1 = s1 + load(x, i + size)
            s2 = s2 + load(x, i + 2 * size)
            s3 = s3 + load(x, i + 3 * size)
        for i in range(quads, hi, size):
            s0 = s0 + load_first(x, i, hi - i)
        added += total((s0 + s1) + (s2 + s3))
    return added


@jit()
def column_sums(x: Any, start: Any, rows: Any, stride: Any, n: Any) -> Any:
    """Σ_r x[start + r · stride + lane] for the first n lanes, by Kahan's summation; infinities survive."""
    added = zeros(x)
    lost = zeros(x)
    plain = zeros(x)
    for r in range(rows):
        v = load_first(x, start + r * stride, n)
        y = v - lost
        t = added + y
        lost = (t - added) - y
        added = t
        plain = plain + v
    return unless_nan(added, plain)  # compensation makes NaN of an infinite sum; the plain one tells which it is


@parallel(work="x", grain=1 << 17)
def sum(x: Any, scale: Any, out: Any) -> None:
    a, r, b = x.shape
    if b == 1:
        for i in prange(a):
            if r == 1:
                out[i, 0] = x[i, 0, 0] * scale
            elif r <= SHORT:
                out[i, 0] = np.float64(short_sum(pointer_to(x), i * r, r)) * scale
            else:
                out[i, 0] = row_sum(pointer_to(x), i * r, r) * scale
    else:
        width = lanes(x)
        chunks = -(-b // width)
        factor = splat(x.dtype.type(scale))
        for j in prange(a * chunks):
            i = j // chunks
            lo = j % chunks * width
            store_first(out, i * b + lo, column_sums(x, i * r * b + lo, r, b, b - lo) * factor, b - lo)


@parallel(work="x", grain=1 << 17)
def sum_all(x: Any, scale: Any, parts: Any, out: Any) -> None:
    n = x.size
    for k in prange(parts.size):
        parts[k] = row_sum(pointer_to(x), k * SHARE, min(SHARE, n - k * SHARE))
    added = 0.0
    for k in range(parts.size):
        added += parts[k]
    out[0, 0] = added * scale


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
