"""Statistics of channels whose values lie in rows: x (N, C, L), one row of L for each (n, c).

A block is a run of rows of one channel, at most BLOCK values: it stays in the first-level cache while it is passed
over twice. First pass: Σ (x - k), k its first value, gives a mean m to working precision; second: d = x - m gives Σ d
and Σ d². Then mean = m + Σd / n and M2 = Σd² - (Σd)² / n are exact to rounding, and blocks are merged in float64
(``bn_statistics``). While the second pass computes, the next block is on its way from memory.

Where rows are short and x lies in memory, not in the caches, a task takes several channels that lie side by side, so
that what it touches of a sample is a run of RUN values, if that is no more than SHARE in all: a share of a cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.bn_statistics import merge
from tinygrad_bn.kernels.cpu.simd import first, fma, lanes, load, load_first, pointer_to, prefetch, splat, total, zeros

BLOCK = 4096
RUN = 768
SHARE = 1 << 16
NARROW = 16  # rows shorter than the widest register are not taken together
LARGE = 1 << 24  # bytes: more than is found in the caches when it is asked for again


@jit(inline=True)
def together(x: Any) -> Any:
    """How many channels of x (N, C, L) a task takes."""
    samples, _, length = x.shape
    n = 1
    if x.size * x.itemsize > LARGE and length >= NARROW:
        while n * length < RUN and 2 * n * samples * length <= SHARE:
            n *= 2
    return n


@jit(inline=True)
def ahead(n: Any, lo: Any, size: Any, rows: Any, n0: Any, n1: Any, length: Any, step: Any, block: Any) -> Any:
    """How far behind the block of rows n … at column lo the next one of the channel begins, else that of the channel
    ``size`` further on."""
    if lo + block < length:
        return block
    if n + rows < n1:
        return rows * step - lo
    return (n0 - n) * step + size * length - lo


@jit()
def rows_sum(x: Any, at: Any, step: Any, rows: Any, length: Any, shift: Any) -> Any:
    """Σ (x - shift) over rows of ``length`` values, ``step`` apart, the first at ``at``."""
    width = lanes(x)
    k = splat(shift)
    s0 = s1 = s2 = s3 = zeros(x)
    rest = length % width
    for _ in range(rows):
        i = at
        end = at + length - rest
        while i + 4 * width <= end:
            s0 = s0 + (load(x, i) - k)
            s1 = s1 + (load(x, i + width) - k)
            s2 = s2 + (load(x, i + 2 * width) - k)
            s3 = s3 + (load(x, i + 3 * width) - k)
            i += 4 * width
        while i < end:
            s0 = s0 + (load(x, i) - k)
            i += width
        if rest:
            s1 = s1 + first(load_first(x, i, rest) - k, rest)
        at += step
    return total((s0 + s1) + (s2 + s3))


@jit(inline=True)
def squared(d: Any, s: Any, q: Any) -> Any:
    """s + d, q + d²."""
    return s + d, fma(d, d, q)


@jit()
def rows_moments(x: Any, at: Any, step: Any, rows: Any, length: Any, mean: Any, further: Any) -> Any:
    """Σ d and Σ d² of d = x - mean; what lies ``further`` on is fetched."""
    width = lanes(x)
    m = splat(mean)
    s0 = s1 = s2 = s3 = q0 = q1 = q2 = q3 = zeros(x)
    rest = length % width
    for _ in range(rows):
        i = at
        end = at + length - rest
        while i + 4 * width <= end:
            prefetch(x, i + further)
            prefetch(x, i + width + further)
            s0, q0 = squared(load(x, i) - m, s0, q0)
            s1, q1 = squared(load(x, i + width) - m, s1, q1)
            prefetch(x, i + 2 * width + further)
            prefetch(x, i + 3 * width + further)
            s2, q2 = squared(load(x, i + 2 * width) - m, s2, q2)
            s3, q3 = squared(load(x, i + 3 * width) - m, s3, q3)
            i += 4 * width
        while i < end:
            prefetch(x, i + further)
            s0, q0 = squared(load(x, i) - m, s0, q0)
            i += width
        if rest:
            prefetch(x, i + further)
            s1, q1 = squared(first(load_first(x, i, rest) - m, rest), s1, q1)
        at += step
    return total((s0 + s1) + (s2 + s3)), total((q0 + q1) + (q2 + q3))


@jit()
def rows_statistics(x: Any, c0: Any, c1: Any, channels: Any, length: Any, n0: Any, n1: Any, parts: Any, p: Any) -> None:
    """Part p, (count, mean, M2), of channels c0 … c1: samples n0 … n1, block by block."""
    px, part = pointer_to(x), pointer_to(parts)
    cuts = parts.shape[1]
    for c in range(c0, c1):
        for j in range(3):
            parts[c, p, j] = 0.0
    step = channels * length
    rows = max(1, BLOCK // length)
    for n in range(n0, n1, rows):
        taken = min(rows, n1 - n)
        for c in range(c0, c1):
            for lo in range(0, length, BLOCK):
                run = min(BLOCK, length - lo)
                at = n * step + c * length + lo
                count = taken * run
                further = ahead(n, lo, c1 - c0, rows, n0, n1, length, step, BLOCK)
                k = x[at]
                m = k + rows_sum(px, at, step, taken, run, k) / x.dtype.type(count)
                s, q = rows_moments(px, at, step, taken, run, m, further)
                shift = s / np.float64(count)
                merge(part, 3 * (c * cuts + p), np.float64(count), m + shift, q - s * shift)
