"""Batch normalisation where a channel's values lie in a column: x (N, C), a register holds as many channels as it has
lanes.

The same arithmetic as in ``bn_rows``, lane by lane: a block is BLOCK rows of one register's channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.bn_activation import RELU, columns, slopes
from tinygrad_bn.kernels.cpu.bn_apply import plus_first
from tinygrad_bn.kernels.cpu.bn_statistics import merge
from tinygrad_bn.kernels.cpu.simd import (
    fma,
    lane,
    largest,
    load_first,
    pointer_to,
    splat,
    sqrt,
    store_first,
    unless_nan,
    where_positive,
    zeros,
)

BLOCK = 256


@jit(inline=True)
def block_moments(x: Any, at: Any, step: Any, rows: Any, n: Any) -> Any:
    """Mean m to working precision, Σ (x - m) and Σ (x - m)² of the first n lanes over rows ``step`` apart."""
    k = load_first(x, at, n)
    s0 = s1 = zeros(x)
    i = at
    for _ in range(rows // 2):
        s0 = s0 + (load_first(x, i, n) - k)
        s1 = s1 + (load_first(x, i + step, n) - k)
        i += 2 * step
    if rows % 2:
        s0 = s0 + (load_first(x, i, n) - k)
    m = k + (s0 + s1) / x.dtype.type(rows)
    s0 = s1 = q0 = q1 = zeros(x)
    i = at
    for _ in range(rows // 2):
        d = load_first(x, i, n) - m
        s0 = s0 + d
        q0 = fma(d, d, q0)
        d = load_first(x, i + step, n) - m
        s1 = s1 + d
        q1 = fma(d, d, q1)
        i += 2 * step
    if rows % 2:
        d = load_first(x, i, n) - m
        s0 = s0 + d
        q0 = fma(d, d, q0)
    return m, s0 + s1, q0 + q1


@jit(inline=True)
def block_statistics(x: Any, channels: Any, c0: Any, n: Any, rows: Any, eps: Any, statistics: Any) -> None:
    """The four rows of statistics of the n channels of one register, of a batch that is a single block.

    mean = m + Σd / rows as the sum of two numbers (Knuth's two-sum), var = (Σd² - (Σd)² / rows) / rows.
    """
    m, s, q = block_moments(x, c0, channels, rows, n)
    count = splat(x.dtype.type(rows))
    shift = s / count
    hi = m + shift
    back = hi - m
    lo = (m - (hi - back)) + (shift - back)
    var = largest((q - s * shift) / count, zeros(x))
    store_first(statistics, c0, hi, n)
    store_first(statistics, channels + c0, unless_nan(lo, zeros(x)), n)
    store_first(statistics, 2 * channels + c0, var, n)
    store_first(statistics, 3 * channels + c0, splat(x.dtype.type(1)) / sqrt(var + splat(x.dtype.type(eps))), n)


@jit(inline=True)
def columns_statistics(x: Any, channels: Any, c0: Any, n: Any, r0: Any, r1: Any, parts: Any, p: Any) -> None:
    """(count, mean, M2) of the n channels of one register over rows r0 … r1."""
    part = pointer_to(parts)
    for start in range(r0, r1, BLOCK):
        rows = min(BLOCK, r1 - start)
        m, s, q = block_moments(x, start * channels + c0, channels, rows, n)
        count = np.float64(rows)
        for j in range(n):
            shift = lane(s, j) / count
            mean, m2 = lane(m, j) + shift, lane(q, j) - lane(s, j) * shift
            if start == r0:
                parts[c0 + j, p, 0] = count
                parts[c0 + j, p, 1] = mean
                parts[c0 + j, p, 2] = m2
            else:
                merge(part, 3 * ((c0 + j) * parts.shape[1] + p), count, mean, m2)


@jit(inline=True)
def columns_apply(
    x: Any, r: Any, y: Any, channels: Any, c0: Any, n: Any, r0: Any, r1: Any,
    h: Any, e: Any, gain: Any, beta: Any, act: Any, slope: Any,
) -> None:  # fmt: skip
    """y = act(((x - h) - e) gain + beta (+ r)); h, e, gain and beta are registers, r is a pointer, or None."""
    if act > RELU:
        start, end = r0 * channels + c0, r1 * channels + c0
        columns(x, r, y, start, end, channels, n, h, e, gain, beta, act, slope)
        return
    floor = splat(x.dtype.type(0.0 if act == RELU else -np.inf))
    for i in range(r0 * channels + c0, r1 * channels + c0, channels):
        z = plus_first(fma((load_first(x, i, n) - h) - e, gain, beta), r, i, n)
        store_first(y, i, largest(z, floor), n)


@jit(inline=True)
def block_sums(
    gy: Any, x: Any, channels: Any, c0: Any, n: Any, start: Any, end: Any,
    h: Any, e: Any, gain: Any, beta: Any, act: Any,
) -> Any:  # fmt: skip
    """Σ g and Σ g d of d = (x - h) - e, g = gy act' over rows start … end; h, e, gain and beta are registers."""
    p0 = p1 = q0 = q1 = zeros(x)
    for r in range(start, end - 1, 2):
        i = r * channels + c0
        d = (load_first(x, i, n) - h) - e
        g = load_first(gy, i, n)
        if act:
            g = where_positive(fma(d, gain, beta), g)
        p0 = p0 + g
        q0 = fma(g, d, q0)
        i += channels
        d = (load_first(x, i, n) - h) - e
        g = load_first(gy, i, n)
        if act:
            g = where_positive(fma(d, gain, beta), g)
        p1 = p1 + g
        q1 = fma(g, d, q1)
    if (end - start) % 2:
        i = (end - 1) * channels + c0
        d = (load_first(x, i, n) - h) - e
        g = load_first(gy, i, n)
        if act:
            g = where_positive(fma(d, gain, beta), g)
        p0 = p0 + g
        q0 = fma(g, d, q0)
    return p0 + p1, q0 + q1


@jit(inline=True)
def columns_sums(
    gy: Any, x: Any, channels: Any, c0: Any, n: Any, r0: Any, r1: Any,
    h: Any, e: Any, gain: Any, beta: Any, act: Any, parts: Any, p: Any,
) -> None:  # fmt: skip
    """parts[c, p] = (·, Σ g, Σ g d), block by block."""
    for c in range(c0, c0 + n):
        parts[c, p, 1] = 0.0
        parts[c, p, 2] = 0.0
    for start in range(r0, r1, BLOCK):
        s, q = block_sums(gy, x, channels, c0, n, start, min(r1, start + BLOCK), h, e, gain, beta, act)
        for j in range(n):
            parts[c0 + j, p, 1] += lane(s, j)
            parts[c0 + j, p, 2] += lane(q, j)


@jit(inline=True)
def columns_gradient(
    gy: Any, x: Any, gx: Any, channels: Any, c0: Any, n: Any, r0: Any, r1: Any,
    h: Any, e: Any, gain: Any, beta: Any, act: Any, k1: Any, k2: Any,
) -> None:  # fmt: skip
    """gx = gain (g - k1 - d k2); what is not an array is a register."""
    for r in range(r0, r1):
        i = r * channels + c0
        d = (load_first(x, i, n) - h) - e
        g = load_first(gy, i, n)
        if act:
            g = where_positive(fma(d, gain, beta), g)
        store_first(gx, i, gain * ((g - k1) - d * k2), n)


@jit(inline=True)
def register_or(values: Any, c: Any, n: Any, default: Any) -> Any:
    """The first n of values from c on, or a default where values is empty."""
    return load_first(values, c, n) if values.size else splat(values.dtype.type(default))


@jit()
def block_forward(
    x: Any, y: Any, channels: Any, c0: Any, n: Any, samples: Any, eps: Any, weight: Any, bias: Any, act: Any,
    slope: Any, statistics: Any,
) -> None:  # fmt: skip
    """Statistics and output of the n channels of one register, of a batch that is a single block."""
    block_statistics(x, channels, c0, n, samples, eps, statistics)
    h, e = load_first(statistics, c0, n), load_first(statistics, channels + c0, n)
    gain = load_first(statistics, 3 * channels + c0, n) * register_or(weight, c0, n, 1)
    columns_apply(x, None, y, channels, c0, n, 0, samples, h, e, gain, register_or(bias, c0, n, 0), act, slope)


@jit()
def block_backward(
    gy: Any, x: Any, gx: Any, channels: Any, c0: Any, n: Any, samples: Any, statistics: Any, weight: Any, bias: Any,
    act: Any, slope: Any, gweight: Any, gbias: Any,
) -> None:  # fmt: skip
    """The three gradients of the n channels of one register, of a batch that is a single block."""
    r = load_first(statistics, 3 * channels + c0, n)
    gain = r * register_or(weight, c0, n, 1)
    beta = register_or(bias, c0, n, 0)
    h, e = load_first(statistics, c0, n), load_first(statistics, channels + c0, n)
    count = x.dtype.type(samples)
    mask = 1 if act == RELU else 0
    source = gx if act > RELU else gy  # gy act'(z) waits where gx will be
    if act > RELU:
        slopes(
            pointer_to(gy), pointer_to(x), None, pointer_to(gx), c0, channels, samples, n,
            h, e, gain, beta, act, slope,
        )  # fmt: skip
    s, q = block_sums(source, x, channels, c0, n, 0, samples, h, e, gain, beta, mask)
    store_first(gbias, c0, s, n)
    store_first(gweight, c0, q * r, n)
    k1, k2 = s / count, q * r * r / count
    columns_gradient(source, x, gx, channels, c0, n, 0, samples, h, e, gain, beta, mask, k1, k2)
