"""Batch normalisation where a channel's values lie in rows: x (N, C, L), one row of L for each (n, c).

A block is a run of rows of one channel, at most BLOCK values: it stays in the first-level cache while it is passed
over twice. First pass: Σ (x - k), k its first value, gives a mean m to working precision; second: d = x - m gives Σ d
and Σ d². Then mean = m + Σd / n and M2 = Σd² - (Σd)² / n are exact to rounding, and blocks are merged as (count,
mean, M2) in float64 by Chan's formula (Chan, Golub, LeVeque 1979).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.simd import (
    exp,
    first,
    fma,
    lanes,
    largest,
    load,
    load_first,
    splat,
    store,
    store_first,
    total,
    where_positive,
    zeros,
)

BLOCK = 4096
RELU, SIGMOID = 1, 2  # as in ``kernels/ref/batch_norm.py``


@jit(inline=True)
def sigmoid(z: Any, zero: Any, one: Any) -> Any:
    """1 / (1 + e^-z) of a register, given registers of zeros and ones."""
    return one / (one + exp(zero - z))


@jit(inline=True)
def sigmoid_slope(z: Any, zero: Any, one: Any) -> Any:
    s = sigmoid(z, zero, one)
    return s * (one - s)


@jit()
def rows_sum(x: Any, at: Any, step: Any, rows: Any, length: Any, shift: Any) -> Any:
    """Σ (x - shift) over rows of ``length`` values, ``step`` apart, the first at ``at``."""
    width = lanes(x)
    k = splat(shift)
    s0 = s1 = s2 = s3 = zeros(x)
    for _ in range(rows):
        i = at
        end = at + length
        while i + 4 * width <= end:
            s0 = s0 + (load(x, i) - k)
            s1 = s1 + (load(x, i + width) - k)
            s2 = s2 + (load(x, i + 2 * width) - k)
            s3 = s3 + (load(x, i + 3 * width) - k)
            i += 4 * width
        while i < end:
            s0 = s0 + first(load_first(x, i, end - i) - k, end - i)
            i += width
        at += step
    return total((s0 + s1) + (s2 + s3))


@jit()
def rows_moments(x: Any, at: Any, step: Any, rows: Any, length: Any, mean: Any) -> Any:
    """Σ d and Σ d² of d = x - mean."""
    width = lanes(x)
    m = splat(mean)
    s0 = s1 = q0 = q1 = zeros(x)
    for _ in range(rows):
        i = at
        end = at + length
        while i + 2 * width <= end:
            d = load(x, i) - m
            s0 = s0 + d
            q0 = fma(d, d, q0)
            d = load(x, i + width) - m
            s1 = s1 + d
            q1 = fma(d, d, q1)
            i += 2 * width
        while i < end:
            d = first(load_first(x, i, end - i) - m, end - i)
            s0 = s0 + d
            q0 = fma(d, d, q0)
            i += width
        at += step
    return total(s0 + s1), total(q0 + q1)


@jit(inline=True)
def merge(part: Any, count: Any, mean: Any, m2: Any) -> None:
    """Merge a block into part = (count, mean, M2) by Chan's formula."""
    before = part[0]
    n = before + count
    delta = mean - part[1]
    part[1] += delta * (count / n)
    part[2] += m2 + delta * delta * (before * count / n)
    part[0] = n


@jit()
def rows_statistics(x: Any, c: Any, channels: Any, length: Any, n0: Any, n1: Any, part: Any) -> None:
    """(count, mean, M2) of channel c over samples n0 … n1, block by block."""
    part[0] = 0.0
    part[1] = 0.0
    part[2] = 0.0
    step = channels * length
    rows = max(1, BLOCK // length)
    for n in range(n0, n1, rows):
        taken = min(rows, n1 - n)
        for lo in range(0, length, BLOCK):
            run = min(BLOCK, length - lo)
            at = n * step + c * length + lo
            count = taken * run
            k = x[at]
            m = k + rows_sum(x, at, step, taken, run, k) / x.dtype.type(count)
            s, q = rows_moments(x, at, step, taken, run, m)
            shift = s / np.float64(count)
            merge(part, np.float64(count), m + shift, q - s * shift)


@jit()
def rows_apply(
    x: Any,
    y: Any,
    c: Any,
    channels: Any,
    length: Any,
    n0: Any,
    n1: Any,
    hi: Any,
    lo: Any,
    gain: Any,
    beta: Any,
    act: Any,
) -> None:
    """y = act(((x - hi) - lo) gain + beta)."""
    width = lanes(x)
    h, e, s, b = splat(hi), splat(lo), splat(gain), splat(beta)
    if act == SIGMOID:
        zero, one = zeros(x), splat(x.dtype.type(1))
        for n in range(n0, n1):
            i = (n * channels + c) * length
            for at in range(i, i + length, width):
                rest = i + length - at
                z = fma((load_first(x, at, rest) - h) - e, s, b)
                store_first(y, at, sigmoid(z, zero, one), rest)
        return
    floor = splat(x.dtype.type(0.0 if act else -np.inf))
    for n in range(n0, n1):
        i = (n * channels + c) * length
        end = i + length
        while i + width <= end:
            store(y, i, largest(fma((load(x, i) - h) - e, s, b), floor))
            i += width
        if i < end:
            store_first(y, i, largest(fma((load_first(x, i, end - i) - h) - e, s, b), floor), end - i)


@jit()
def rows_slope(
    gy: Any,
    x: Any,
    g: Any,
    c: Any,
    channels: Any,
    length: Any,
    n0: Any,
    n1: Any,
    hi: Any,
    lo: Any,
    gain: Any,
    beta: Any,
) -> None:
    """g = gy σ'(z), z = ((x - hi) - lo) gain + beta."""
    width = lanes(x)
    h, e, s, b = splat(hi), splat(lo), splat(gain), splat(beta)
    zero, one = zeros(x), splat(x.dtype.type(1))
    for n in range(n0, n1):
        i = (n * channels + c) * length
        for at in range(i, i + length, width):
            rest = i + length - at
            z = fma((load_first(x, at, rest) - h) - e, s, b)
            store_first(g, at, load_first(gy, at, rest) * sigmoid_slope(z, zero, one), rest)


@jit()
def rows_sums(
    gy: Any, x: Any, c: Any, channels: Any, length: Any, n0: Any, n1: Any,
    hi: Any, lo: Any, gain: Any, beta: Any, act: Any, part: Any,
) -> None:  # fmt: skip
    """part = (·, Σ g, Σ g d) of d = (x - hi) - lo, g = gy act'; each block in its own type, blocks in float64."""
    width = lanes(x)
    h, e, s, b = splat(hi), splat(lo), splat(gain), splat(beta)
    sum_g = 0.0
    sum_gd = 0.0
    rows = max(1, BLOCK // length)
    for start in range(n0, n1, rows):
        p0 = p1 = q0 = q1 = zeros(x)
        for n in range(start, min(n1, start + rows)):
            i = (n * channels + c) * length
            end = i + length
            while i + 2 * width <= end:
                d = (load(x, i) - h) - e
                g = load(gy, i)
                if act:
                    g = where_positive(fma(d, s, b), g)
                p0 = p0 + g
                q0 = fma(g, d, q0)
                d = (load(x, i + width) - h) - e
                g = load(gy, i + width)
                if act:
                    g = where_positive(fma(d, s, b), g)
                p1 = p1 + g
                q1 = fma(g, d, q1)
                i += 2 * width
            while i < end:
                d = (load_first(x, i, end - i) - h) - e
                g = load_first(gy, i, end - i)
                if act:
                    g = first(where_positive(fma(d, s, b), g), end - i)
                p0 = p0 + g
                q0 = fma(g, first(d, end - i), q0)
                i += width
        sum_g += total(p0 + p1)
        sum_gd += total(q0 + q1)
    part[1] = sum_g
    part[2] = sum_gd


@jit()
def rows_gradient(
    gy: Any, x: Any, gx: Any, c: Any, channels: Any, length: Any, n0: Any, n1: Any,
    hi: Any, lo: Any, gain: Any, beta: Any, act: Any, k1: Any, k2: Any,
) -> None:  # fmt: skip
    """gx = gain (g - k1 - d k2)."""
    width = lanes(x)
    h, e, s, b = splat(hi), splat(lo), splat(gain), splat(beta)
    a, r = splat(k1), splat(-k2)
    for n in range(n0, n1):
        i = (n * channels + c) * length
        end = i + length
        while i + width <= end:
            d = (load(x, i) - h) - e
            g = load(gy, i)
            if act:
                g = where_positive(fma(d, s, b), g)
            store(gx, i, s * fma(d, r, g - a))
            i += width
        if i < end:
            d = (load_first(x, i, end - i) - h) - e
            g = load_first(gy, i, end - i)
            if act:
                g = where_positive(fma(d, s, b), g)
            store_first(gx, i, s * fma(d, r, g - a), end - i)
