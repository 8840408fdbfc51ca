"""Normalisation within a sample, of an input seen as (N, G, D, L): a mean and variance for each (n, g).

    y  = (x - mean) invstd w_c + b_c,  invstd = 1 / √(var + eps), var biased, c = g D + d
    gx = invstd (h - mean(h) - x̂ mean(h x̂)),  h = gy w_c;  gw_c = Σ gy x̂ and gb_c = Σ gy over n and L

Wu & He 2018 (arXiv:1803.08494). A row is an (n, g): D L numbers side by side. Its statistics are taken in blocks of
two passes each, merged as in ``bn_rows``. Where L > 1 a channel is a run of L numbers, whose sums give gw, gb and,
times w_c, those of the row. Where L = 1 (layer norm) each lane has a channel of its own: gw and gb are summed lane by
lane over ROWS samples in their own type, those sums in float64. A task of backward is one of P = sums.shape[0]
stretches of the samples, and where these are few one of some stretches of the groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.bn_rows import BLOCK, rows_moments, rows_sum
from tinygrad_bn.kernels.cpu.simd import (
    first,
    fma,
    lanes,
    load,
    load_first,
    pointer_to,
    splat,
    store,
    store_first,
    total,
    zeros,
)

GRAIN = 1 << 14
TASKS = 16
ROWS = 64


@jit(inline=True)
def number_or(values: Any, c: Any, default: Any) -> Any:
    """values[c], or a default where values is empty."""
    return values[c] if values.size else values.dtype.type(default)


@jit(inline=True)
def register_or(values: Any, c: Any, default: Any) -> Any:
    """A register of values from c on, or of a default where values is empty."""
    return load(values, c) if values.size else splat(values.dtype.type(default))


@jit(inline=True)
def first_or(values: Any, c: Any, n: Any, default: Any) -> Any:
    """The first n of values from c on in a register, or a default where values is empty."""
    return load_first(values, c, n) if values.size else splat(values.dtype.type(default))


@jit(inline=True)
def row_statistics(x: Any, at: Any, size: Any, eps: Any, r: Any, statistics: Any) -> None:
    """Mean and M2 block by block, merged by Chan's formula; from them the statistics of row r."""
    px = pointer_to(x)
    mean = 0.0
    m2 = 0.0
    for lo in range(0, size, BLOCK):
        run = min(BLOCK, size - lo)
        k = x[at + lo]
        m = k + rows_sum(px, at + lo, 0, 1, run, k) / x.dtype.type(run)
        s, q = rows_moments(px, at + lo, 0, 1, run, m, BLOCK)
        shift = s / np.float64(run)
        share = np.float64(run) / np.float64(lo + run)
        delta = m + shift - mean
        mean += delta * share
        m2 += q - s * shift + delta * delta * (lo * share)
    if m2 < 0.0:
        m2 = 0.0
    var = m2 / np.float64(size)
    statistics[0, r] = mean
    statistics[1, r] = mean - np.float64(statistics[0, r]) if abs(mean) < np.inf else 0.0
    statistics[2, r] = var
    statistics[3, r] = 1.0 / np.sqrt(var + eps)


@jit(inline=True)
def apply_runs(
    x: Any, y: Any, at: Any, runs: Any, length: Any, c: Any, hi: Any, lo: Any, invstd: Any, weight: Any, bias: Any
) -> None:
    """y = ((x - hi) - lo) invstd w + b of a row of ``runs`` channels, the first of them c."""
    width = lanes(x)
    h, e = splat(hi), splat(lo)
    for d in range(runs):
        s, b = splat(invstd * number_or(weight, c + d, 1)), splat(number_or(bias, c + d, 0))
        i = at + d * length
        end = i + length
        while i + width <= end:
            store(y, i, fma((load(x, i) - h) - e, s, b))
            i += width
        if i < end:
            store_first(y, i, fma((load_first(x, i, end - i) - h) - e, s, b), end - i)


@jit(inline=True)
def apply_elements(
    x: Any, y: Any, at: Any, size: Any, c: Any, hi: Any, lo: Any, invstd: Any, weight: Any, bias: Any
) -> None:
    """The same where each element has a channel of its own."""
    width = lanes(x)
    h, e, r = splat(hi), splat(lo), splat(invstd)
    j = 0
    while j + width <= size:
        s, b = r * register_or(weight, c + j, 1), register_or(bias, c + j, 0)
        store(y, at + j, fma((load(x, at + j) - h) - e, s, b))
        j += width
    n = size - j
    if n:
        s, b = r * first_or(weight, c + j, n, 1), first_or(bias, c + j, n, 0)
        store_first(y, at + j, fma((load_first(x, at + j, n) - h) - e, s, b), n)


@parallel(work="x", grain=GRAIN)
def group_norm(x: Any, weight: Any, bias: Any, eps: Any, y: Any, statistics: Any) -> None:
    samples, groups, depth, length = x.shape
    fx, fy = x.reshape(-1), y.reshape(-1)
    size = depth * length
    for r in prange(samples * groups):
        row_statistics(fx, r * size, size, eps, r, statistics)
        c = r % groups * depth
        hi, lo, invstd = statistics[0, r], statistics[1, r], statistics[3, r]
        if length == 1:
            apply_elements(fx, fy, r * size, size, c, hi, lo, invstd, weight, bias)
        else:
            apply_runs(fx, fy, r * size, depth, length, c, hi, lo, invstd, weight, bias)


@jit()
def run_sums(gy: Any, x: Any, at: Any, length: Any, hi: Any, lo: Any) -> Any:
    """Σ gy and Σ gy d of d = (x - hi) - lo; each block in its own type, blocks in float64."""
    width = lanes(x)
    h, e = splat(hi), splat(lo)
    s = 0.0
    q = 0.0
    for start in range(at, at + length, BLOCK):
        i = start
        end = min(start + BLOCK, at + length)
        p0 = p1 = q0 = q1 = zeros(x)
        while i + 2 * width <= end:
            g = load(gy, i)
            p0 = p0 + g
            q0 = fma(g, (load(x, i) - h) - e, q0)
            g = load(gy, i + width)
            p1 = p1 + g
            q1 = fma(g, (load(x, i + width) - h) - e, q1)
            i += 2 * width
        while i < end:
            g = load_first(gy, i, end - i)
            p0 = p0 + g
            q0 = fma(g, first((load_first(x, i, end - i) - h) - e, end - i), q0)
            i += width
        s += total(p0 + p1)
        q += total(q0 + q1)
    return s, q


@jit(inline=True)
def runs_sums(
    gy: Any, x: Any, at: Any, runs: Any, length: Any, c: Any, hi: Any, lo: Any, invstd: Any, weight: Any, part: Any
) -> Any:
    """Σ h and Σ h d of a row of runs; the channels' Σ gy x̂ and Σ gy are added to part[0] and part[1]."""
    a = 0.0
    b = 0.0
    for d in range(runs):
        s, q = run_sums(pointer_to(gy), pointer_to(x), at + d * length, length, hi, lo)
        part[0, c + d] += q * invstd
        part[1, c + d] += s
        w = np.float64(number_or(weight, c + d, 1))
        a += w * s
        b += w * q
    return a, b


@jit(inline=True)
def elements_sums(
    gy: Any, x: Any, at: Any, size: Any, c: Any, hi: Any, lo: Any, invstd: Any, weight: Any, recent: Any, base: Any
) -> Any:
    """The same of a row whose elements are channels; sums are added to ``recent`` from ``base`` on, which is 2 C long
    or, where nobody wants them, empty."""
    width = lanes(x)
    h, e, r = splat(hi), splat(lo), splat(invstd)
    wanted = recent.size > 0
    channels = recent.shape[-1]
    a = 0.0
    b = 0.0
    rows = recent.reshape(-1)
    for start in range(0, size, BLOCK):
        j = start
        end = min(start + BLOCK, size)
        p = q = zeros(x)
        while j + width <= end:
            d = (load(x, at + j) - h) - e
            g = load(gy, at + j)
            if wanted:
                i = base + c + j
                store(rows, i, fma(g, d * r, load(rows, i)))
                store(rows, i + channels, load(rows, i + channels) + g)
            g = g * register_or(weight, c + j, 1)
            p = p + g
            q = fma(g, d, q)
            j += width
        n = end - j
        if n > 0:
            d = first((load_first(x, at + j, n) - h) - e, n)
            g = load_first(gy, at + j, n)
            if wanted:
                i = base + c + j
                store_first(rows, i, fma(g, d * r, load_first(rows, i, n)), n)
                store_first(rows, i + channels, load_first(rows, i + channels, n) + g, n)
            g = g * first_or(weight, c + j, n, 1)
            p = p + g
            q = fma(g, d, q)
        a += total(p)
        b += total(q)
    return a, b


@jit(inline=True)
def runs_gradient(
    gy: Any, x: Any, gx: Any, at: Any, runs: Any, length: Any, c: Any,
    hi: Any, lo: Any, invstd: Any, weight: Any, k1: Any, k2: Any,
) -> None:  # fmt: skip
    """gx = invstd (gy w - k1 - d k2)."""
    width = lanes(x)
    h, e, r, a, b = splat(hi), splat(lo), splat(invstd), splat(k1), splat(-k2)
    for d in range(runs):
        w = splat(number_or(weight, c + d, 1))
        i = at + d * length
        end = i + length
        while i + width <= end:
            store(gx, i, r * fma((load(x, i) - h) - e, b, load(gy, i) * w - a))
            i += width
        n = end - i
        if n > 0:
            g = load_first(gy, i, n) * w - a
            store_first(gx, i, r * fma((load_first(x, i, n) - h) - e, b, g), n)


@jit(inline=True)
def elements_gradient(
    gy: Any, x: Any, gx: Any, at: Any, size: Any, c: Any,
    hi: Any, lo: Any, invstd: Any, weight: Any, k1: Any, k2: Any,
) -> None:  # fmt: skip
    """The same where each element has a channel of its own."""
    width = lanes(x)
    h, e, r, a, b = splat(hi), splat(lo), splat(invstd), splat(k1), splat(-k2)
    j = 0
    while j + width <= size:
        g = load(gy, at + j) * register_or(weight, c + j, 1) - a
        store(gx, at + j, r * fma((load(x, at + j) - h) - e, b, g))
        j += width
    n = size - j
    if n:
        g = load_first(gy, at + j, n) * first_or(weight, c + j, n, 1) - a
        store_first(gx, at + j, r * fma((load_first(x, at + j, n) - h) - e, b, g), n)


@jit(inline=True)
def settle(recent: Any, part: Any, c0: Any, c1: Any) -> None:
    """Add what was summed lately to the sums in float64, and begin anew."""
    for k in range(2):
        for c in range(c0, c1):
            part[k, c] += np.float64(recent[k, c])
            recent[k, c] = 0


@jit()
def stretch(
    gy: Any, x: Any, weight: Any, statistics: Any, gx: Any, recent: Any, sums: Any, p: Any,
    n0: Any, n1: Any, g0: Any, g1: Any,
) -> None:  # fmt: skip
    """One task: gx of samples n0 … n1 and groups g0 … g1, and their share of gw and gb."""
    _, groups, depth, length = x.shape
    fgy, fx, fgx = gy.reshape(-1), x.reshape(-1), gx.reshape(-1)
    size = depth * length
    part = sums[p]
    part[:, g0 * depth : g1 * depth] = 0.0
    if recent.size:
        recent[p, :, g0 * depth : g1 * depth] = 0
    for n in range(n0, n1):
        for g in range(g0, g1):
            r, c = n * groups + g, g * depth
            hi, lo, invstd = statistics[0, r], statistics[1, r], statistics[3, r]
            if length == 1:
                a, b = elements_sums(fgy, fx, r * size, size, c, hi, lo, invstd, weight, recent, 2 * p * groups * depth)
            else:
                a, b = runs_sums(fgy, fx, r * size, depth, length, c, hi, lo, invstd, weight, part)
            k1 = statistics.dtype.type(a / size)
            k2 = statistics.dtype.type(b * invstd * invstd / size)
            if length == 1:
                elements_gradient(fgy, fx, fgx, r * size, size, c, hi, lo, invstd, weight, k1, k2)
            else:
                runs_gradient(fgy, fx, fgx, r * size, depth, length, c, hi, lo, invstd, weight, k1, k2)
        if recent.size and ((n + 1 - n0) % ROWS == 0 or n + 1 == n1):
            settle(recent[p], part, g0 * depth, g1 * depth)


@parallel(work="gy", grain=GRAIN)
def group_norm_backward(
    gy: Any, x: Any, weight: Any, statistics: Any,
    gx: Any, gweight: Any, gbias: Any, recent: Any, sums: Any,
) -> None:  # fmt: skip
    samples, groups = x.shape[0], x.shape[1]
    cuts = sums.shape[0]
    across = min(groups, max(1, TASKS // cuts))
    for t in prange(cuts * across):
        p, q = t // across, t % across
        n0, n1 = samples * p // cuts, samples * (p + 1) // cuts
        g0, g1 = groups * q // across, groups * (q + 1) // across
        stretch(gy, x, weight, statistics, gx, recent, sums, p, n0, n1, g0, g1)
    for p in range(1, cuts):
        for c in range(sums.shape[2]):
            sums[0, 0, c] += sums[p, 0, c]
            sums[0, 1, c] += sums[p, 1, c]
    for c in range(gweight.size):
        gweight[c] = sums[0, 0, c]
    for c in range(gbias.size):
        gbias[c] = sums[0, 1, c]
