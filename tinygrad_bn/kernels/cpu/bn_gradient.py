"""Gradients of channels whose values lie in rows: two passes over what a task's channels hold.

    Σ g, Σ g d,  d = (x - hi) - lo,  g = gy act'(z)        each block in its own type, blocks in float64
    gx = gain (g - k1 - d k2)                              k1, k2 from the sums (``bn_statistics.gather``)

Of the ReLU alone, g is computed in both passes: z is one more operation on what is read anyway. Of other activations,
g is written where gx will be, ahead of the sums, block by block (``bn_activation``), and read out of the cache. Where a
residual was added to z, g is written as the residual's gradient; that of the ReLU by the output, y > 0, as it is summed
up.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.bn_activation import RELU, slopes
from tinygrad_bn.kernels.cpu.bn_apply import ahead_of_registers, put
from tinygrad_bn.kernels.cpu.bn_rows import BLOCK, LARGE, ahead
from tinygrad_bn.kernels.cpu.bn_statistics import at_or
from tinygrad_bn.kernels.cpu.simd import (
    first,
    fma,
    lanes,
    load,
    load_first,
    pointer_to,
    prefetch,
    splat,
    store,
    store_first,
    total,
    where_positive,
    zeros,
)
from tinygrad_bn.kernels.cpu.streams import blend, misaligned, settle

FAR = 1 << 22  # bytes of x from which what comes next is fetched: below, the processor's own prefetching is as good


@jit(inline=True)
def summed(gy: Any, x: Any, y: Any, g: Any, i: Any, h: Any, e: Any, s: Any, b: Any, act: Any, p: Any, q: Any) -> Any:
    """p + g, q + g d."""
    d = (load(x, i) - h) - e
    v = load(gy, i)
    if y is not None:
        if act == RELU:
            v = where_positive(load(y, i), v)
            store(g, i, v)
    elif act == RELU:
        v = where_positive(fma(d, s, b), v)
    return p + v, fma(v, d, q)


@jit(inline=True)
def summed_first(
    gy: Any, x: Any, y: Any, g: Any, i: Any, n: Any,
    h: Any, e: Any, s: Any, b: Any, act: Any, p: Any, q: Any,
) -> Any:  # fmt: skip
    """The same of the first n lanes."""
    d = (load_first(x, i, n) - h) - e
    v = load_first(gy, i, n)
    if y is not None:
        if act == RELU:
            v = first(where_positive(load_first(y, i, n), v), n)
            store_first(g, i, v, n)
    elif act == RELU:
        v = first(where_positive(fma(d, s, b), v), n)
    return p + v, fma(v, first(d, n), q)


@jit(inline=True)
def fetch(gy: Any, x: Any, y: Any, start: Any, end: Any, width: Any) -> None:
    for i in range(start, end, width):
        prefetch(x, i)
        prefetch(gy, i)
        if y is not None:
            prefetch(y, i)


@jit()
def block_sums(
    gy: Any, x: Any, y: Any, g: Any, at: Any, step: Any, rows: Any, length: Any,
    h: Any, e: Any, s: Any, b: Any, act: Any, further: Any,
) -> Any:  # fmt: skip
    """Σ g and Σ g d; where y is given, a ReLU's g is found by it, and written. What lies ``further`` on is fetched."""
    width = lanes(x)
    p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = zeros(x)
    rest = length % width
    for _ in range(rows):
        i = at
        end = at + length - rest
        while i + 4 * width <= end:
            if further:
                fetch(gy, x, y, i + further, i + 4 * width + further, width)
            p0, q0 = summed(gy, x, y, g, i, h, e, s, b, act, p0, q0)
            p1, q1 = summed(gy, x, y, g, i + width, h, e, s, b, act, p1, q1)
            p2, q2 = summed(gy, x, y, g, i + 2 * width, h, e, s, b, act, p2, q2)
            p3, q3 = summed(gy, x, y, g, i + 3 * width, h, e, s, b, act, p3, q3)
            i += 4 * width
        if further:
            fetch(gy, x, y, i + further, at + length + further, width)
        while i < end:
            p0, q0 = summed(gy, x, y, g, i, h, e, s, b, act, p0, q0)
            i += width
        if rest:
            p1, q1 = summed_first(gy, x, y, g, i, rest, h, e, s, b, act, p1, q1)
        at += step
    return total((p0 + p1) + (p2 + p3)), total((q0 + q1) + (q2 + q3))


@jit()
def rows_sums(
    gy: Any, x: Any, y: Any, g: Any, c0: Any, c1: Any, channels: Any, length: Any, n0: Any, n1: Any,
    statistics: Any, weight: Any, bias: Any, act: Any, slope: Any, parts: Any, p: Any,
) -> None:  # fmt: skip
    """Part p, (·, Σ g, Σ g d), of channels c0 … c1: samples n0 … n1, block by block. y is a pointer to
    what is kept of a residual's sum, or None; g is written where y is given or there is more than a ReLU."""
    px, pgy, pg = pointer_to(x), pointer_to(gy), pointer_to(g)
    far = x.size * x.itemsize > FAR
    waiting = act > RELU  # gy act'(z) waits where gx, or the residual's gradient, will be
    source = pg if waiting else pgy
    for c in range(c0, c1):
        for j in range(3):
            parts[c, p, j] = 0.0
    step = channels * length
    rows = max(1, BLOCK // length)
    for n in range(n0, n1, rows):
        taken = min(rows, n1 - n)
        for c in range(c0, c1):
            h, e = splat(statistics[0, c]), splat(statistics[1, c])
            s, b = splat(statistics[3, c] * at_or(weight, c, 1)), splat(at_or(bias, c, 0))
            for lo in range(0, length, BLOCK):
                run = min(BLOCK, length - lo)
                at = n * step + c * length + lo
                further = ahead(n, lo, c1 - c0, rows, n0, n1, length, step, BLOCK) if far else 0
                if waiting:
                    slopes(pgy, px, y, pg, at, step, taken, run, h, e, s, b, act, slope)
                sum_g, sum_gd = block_sums(source, px, y, pg, at, step, taken, run, h, e, s, b, act, further)
                parts[c, p, 1] += sum_g
                parts[c, p, 2] += sum_gd


@jit(inline=True)
def gradient(g: Any, d: Any, s: Any, b: Any, a: Any, r: Any, mask: Any) -> Any:
    if mask:
        g = where_positive(fma(d, s, b), g)
    return s * fma(d, r, g - a)


@jit()
def rows_gradient(
    g: Any, x: Any, gx: Any, c0: Any, c1: Any, channels: Any, length: Any, n0: Any, n1: Any,
    statistics: Any, weight: Any, bias: Any, mask: Any, count: Any, parts: Any, past: Any,
) -> None:  # fmt: skip
    """gx of channels c0 … c1, samples n0 … n1; k1 and k2 are 0 where count is. With ``past`` LARGE results go past the
    caches."""
    width = lanes(x)
    px, pg, pgx = pointer_to(x), pointer_to(g), pointer_to(gx)
    past = past and length >= width and gx.size * gx.itemsize > LARGE
    skew = misaligned(gx)
    h0 = e0 = s0 = b0 = a0 = r0 = zeros(x)
    for n in range(n1 - 1, n0 - 1, -1):
        i = (n * channels + c0) * length
        end = i
        for c in range(c0, c1):
            h, e = splat(statistics[0, c]), splat(statistics[1, c])
            s, b = splat(statistics[3, c] * at_or(weight, c, 1)), splat(at_or(bias, c, 0))
            a = splat(x.dtype.type(parts[c, 0, 1] if count else 0.0))  # of constants, other tasks still write there
            r = splat(x.dtype.type(-parts[c, 0, 2] if count else 0.0))
            if c == c0:
                head = ahead_of_registers(skew, i, length, width, past)
                if head:
                    d = (load_first(px, i, head) - h) - e
                    store_first(pgx, i, gradient(load_first(pg, i, head), d, s, b, a, r, mask), head)
                    i += head
            elif i < end:
                v, w = load(px, i), load(pg, i)
                before = gradient(w, (v - h0) - e0, s0, b0, a0, r0, mask)
                put(pgx, i, blend(before, gradient(w, (v - h) - e, s, b, a, r, mask), end - i), past)
                i += width
            end += length
            while i + 2 * width <= end:
                put(pgx, i, gradient(load(pg, i), (load(px, i) - h) - e, s, b, a, r, mask), past)
                j = i + width
                put(pgx, j, gradient(load(pg, j), (load(px, j) - h) - e, s, b, a, r, mask), past)
                i += 2 * width
            while i + width <= end:
                put(pgx, i, gradient(load(pg, i), (load(px, i) - h) - e, s, b, a, r, mask), past)
                i += width
            h0, e0, s0, b0, a0, r0 = h, e, s, b, a, r
        if i < end:
            d = (load_first(px, i, end - i) - h0) - e0
            store_first(pgx, i, gradient(load_first(pg, i, end - i), d, s0, b0, a0, r0, mask), end - i)
    if past:
        settle()
