"""Group norm's passes over rows of D L numbers: y with the statistics, and gx; see ``group_norm``.

A row's units are shared by 2^wide threads. Where a channel has ``per`` units, a thread follows its channel by
additions: ``ahead`` channels and ``rest`` units from one of its units to the next. Where each element has a channel of
its own (``own``), its weight is fetched with it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.bn_rows import unit_moments
from tinygrad_bn.kernels.cuda.entry import device, entry
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.vector import load4
from tinygrad_bn.kernels.cuda.words import fetch, first_of, numbers, odd, put, real

__all__: list[str] = []


@device
def row_merged(lane: Any, t: Any, across: Any, n: Any, m: Any, q: Any) -> None:
    """Merge what a row's threads have written into shared n, m and q; its first thread finds it where its own was."""
    h = across >> 1
    while h > 0:
        cuda.syncthreads()
        if lane < h:
            a, b = n[t], n[t + h]
            if b > 0.0:
                share = b / (a + b)
                delta = m[t + h] - m[t]
                m[t] = m[t] + delta * share
                q[t] = q[t] + (q[t + h] + delta * delta * (a * share))
                n[t] = a + b
        h = h >> 1
    cuda.syncthreads()


@device
def row_added(lane: Any, t: Any, across: Any, p: Any, q: Any) -> None:
    """The same of two sums."""
    h = across >> 1
    while h > 0:
        cuda.syncthreads()
        if lane < h:
            p[t] = p[t] + p[t + h]
            q[t] = q[t] + q[t + h]
        h = h >> 1
    cuda.syncthreads()


@device
def gains(w: Any, c: Any, has: Any, default: Any, width: Any, own: Any) -> Any:
    """The weights of a unit whose first channel is c: those of elements 0, 2, 4, 6, then 1, 3, 5, 7 of width 8."""
    if not has:
        return default, default, default, default, default, default, default, default
    if own and width == 8:
        a, b, e, d = load4(w, c)
        p, q, u, v = load4(w, c + 4)
        return a, e, p, u, b, d, q, v
    if own and width == 4:
        a, b, e, d = load4(w, c)
        return a, b, e, d, a, b, e, d
    a = w[c]
    return a, a, a, a, a, a, a, a


@device
def unit_normal(raw: Any, y: Any, o: Any, hi: Any, lo: Any, r: Any, w: Any, b: Any, width: Any, kind: Any) -> None:
    x0, x1, x2, x3 = numbers(raw, kind)
    x4, x5, x6, x7 = x0, x1, x2, x3
    if width == 8:
        x4, x5, x6, x7 = numbers(odd(raw), kind)
    w0, w1, w2, w3, w4, w5, w6, w7 = w
    b0, b1, b2, b3, b4, b5, b6, b7 = b
    put(
        y, o,
        ((x0 - hi) - lo) * (r * w0) + b0, ((x1 - hi) - lo) * (r * w1) + b1,
        ((x2 - hi) - lo) * (r * w2) + b2, ((x3 - hi) - lo) * (r * w3) + b3,
        ((x4 - hi) - lo) * (r * w4) + b4, ((x5 - hi) - lo) * (r * w5) + b5,
        ((x6 - hi) - lo) * (r * w6) + b6, ((x7 - hi) - lo) * (r * w7) + b7,
        width, kind,
    )  # fmt: skip


@entry(real="statistics", static="width kind own")
def _forward(  # type: ignore[no-untyped-def]
    x, weight, bias, eps, y, statistics, weighted, biased, rows, groups, depth, units, wide, per, ahead, rest,
    width, kind, own,
):  # fmt: skip
    n = cuda.shared.array(THREADS, real)
    m = cuda.shared.array(THREADS, real)
    q = cuda.shared.array(THREADS, real)
    t = cuda.threadIdx.x
    across = 1 << wide
    lane = np.int32(t & (across - 1))
    row = cuda.blockIdx.x * (THREADS >> wide) + (t >> wide)
    start = row * units * width
    i = lane if row < rows else units
    begin, step = i, across * width
    o = start + i * width
    k, s, p = real(0), real(0), real(0)
    if i < units:
        k = first_of(x, o, width, kind)
    if lane == 0:
        n[t] = k
    while i + 3 * across < units:
        r0, r1 = fetch(x, o, width), fetch(x, o + step, width)
        r2, r3 = fetch(x, o + 2 * step, width), fetch(x, o + 3 * step, width)
        s, p = unit_moments(r0, k, s, p, width, kind)
        s, p = unit_moments(r1, k, s, p, width, kind)
        s, p = unit_moments(r2, k, s, p, width, kind)
        s, p = unit_moments(r3, k, s, p, width, kind)
        i = np.int32(i + 4 * across)
        o += 4 * step
    while i < units:
        s, p = unit_moments(fetch(x, o, width), k, s, p, width, kind)
        i = np.int32(i + across)
        o += step
    count, mean = real((i - begin >> wide) * width), real(0)
    if count > 0.0:
        mean = s / count
        p = p - s * mean
        p = 0.0 if p < 0.0 else p
    cuda.syncthreads()
    first = n[t - lane]
    cuda.syncthreads()
    n[t] = count
    m[t] = (k - first) + mean
    q[t] = p
    row_merged(lane, t, across, n, m, q)
    if lane == 0 and row < rows:
        exact = np.float64(first) + np.float64(m[t])
        var = np.float64(q[t]) / np.float64(n[t])
        hi = real(exact)
        n[t] = real(np.float64(1) / np.float64(math.sqrt(var + eps)))
        m[t] = hi
        q[t] = real(exact - np.float64(hi)) if abs(exact) < np.float64(np.inf) else 0.0
        statistics[row] = m[t]
        statistics[rows + row] = q[t]
        statistics[2 * rows + row] = real(var)
        statistics[3 * rows + row] = n[t]
    cuda.syncthreads()
    if row < rows:
        r, hi, lo = n[t - lane], m[t - lane], q[t - lane]
        c = np.int64(np.uint64(row) % np.uint64(groups)) * depth
        d = np.int32(np.uint32(lane) // np.uint32(per))
        at = np.int32(lane - d * per)
        i = lane
        o = start + lane * width
        while i < units:
            channel = c + (i * width if own else d)
            w = gains(weight, channel, weighted, real(1), width, own)
            b = gains(bias, channel, biased, real(0), width, own)
            unit_normal(fetch(x, o, width), y, o, hi, lo, r, w, b, width, kind)
            i = np.int32(i + across)
            o += step
            d, at = np.int32(d + ahead), np.int32(at + rest)
            if at >= per:
                d, at = np.int32(d + 1), np.int32(at - per)


@device
def unit_products(g4: Any, x4: Any, hi: Any, lo: Any, w: Any, s: Any, p: Any, width: Any, kind: Any) -> Any:
    """Add h and h d of a unit to their sums."""
    w0, w1, w2, w3, w4, w5, w6, w7 = w
    a, b, c, d = numbers(g4, kind)
    x0, x1, x2, x3 = numbers(x4, kind)
    a = a * w0
    if width == 1:
        return s + a, p + a * ((x0 - hi) - lo)
    b, c, d = b * w1, c * w2, d * w3
    s = s + ((a + b) + (c + d))
    p = p + ((a * ((x0 - hi) - lo) + b * ((x1 - hi) - lo)) + (c * ((x2 - hi) - lo) + d * ((x3 - hi) - lo)))
    if width == 8:
        a, b, c, d = numbers(odd(g4), kind)
        x0, x1, x2, x3 = numbers(odd(x4), kind)
        a, b, c, d = a * w4, b * w5, c * w6, d * w7
        s = s + ((a + b) + (c + d))
        p = p + ((a * ((x0 - hi) - lo) + b * ((x1 - hi) - lo)) + (c * ((x2 - hi) - lo) + d * ((x3 - hi) - lo)))
    return s, p


@device
def slope4(g4: Any, x4: Any, hi: Any, lo: Any, r: Any, k1: Any, k2: Any, w: Any, kind: Any) -> Any:
    """gx of four elements."""
    a, b, c, d = numbers(g4, kind)
    x0, x1, x2, x3 = numbers(x4, kind)
    w0, w1, w2, w3 = w
    a, b = r * ((a * w0 - k1) - ((x0 - hi) - lo) * k2), r * ((b * w1 - k1) - ((x1 - hi) - lo) * k2)
    c, d = r * ((c * w2 - k1) - ((x2 - hi) - lo) * k2), r * ((d * w3 - k1) - ((x3 - hi) - lo) * k2)
    return a, b, c, d


@entry(real="statistics", static="width kind own")
def _backward(  # type: ignore[no-untyped-def]
    gy, x, weight, statistics, gx, weighted, rows, groups, depth, units, wide, per, ahead, rest, width, kind, own
):
    a = cuda.shared.array(THREADS, real)
    b = cuda.shared.array(THREADS, real)
    t = cuda.threadIdx.x
    across = 1 << wide
    lane = np.int32(t & (across - 1))
    row = cuda.blockIdx.x * (THREADS >> wide) + (t >> wide)
    inside = row < rows
    start = row * units * width + lane * width
    step = across * width
    hi, lo, r = real(0), real(0), real(0)
    c = np.int64(np.uint64(row) % np.uint64(groups)) * depth
    first = np.int32(np.uint32(lane) // np.uint32(per))
    s, p = real(0), real(0)
    if inside:
        hi, lo, r = statistics[row], statistics[rows + row], statistics[3 * rows + row]
        i, o, d, at = lane, start, first, np.int32(lane - first * per)
        while i < units:
            w = gains(weight, c + (i * width if own else d), weighted, real(1), width, own)
            s, p = unit_products(fetch(gy, o, width), fetch(x, o, width), hi, lo, w, s, p, width, kind)
            i = np.int32(i + across)
            o += step
            d, at = np.int32(d + ahead), np.int32(at + rest)
            if at >= per:
                d, at = np.int32(d + 1), np.int32(at - per)
    a[t] = s
    b[t] = p
    row_added(lane, t, across, a, b)
    if inside:
        count = real(units) * real(width)
        k1 = a[t - lane] / count
        k2 = b[t - lane] / count * r * r
        i, o, d, at = lane, start, first, np.int32(lane - first * per)
        while i < units:
            w0, w1, w2, w3, w4, w5, w6, w7 = gains(weight, c + (i * width if own else d), weighted, real(1), width, own)
            g4, x4 = fetch(gy, o, width), fetch(x, o, width)
            y0, y1, y2, y3 = slope4(g4, x4, hi, lo, r, k1, k2, (w0, w1, w2, w3), kind)
            y4, y5, y6, y7 = y0, y1, y2, y3
            if width == 8:
                y4, y5, y6, y7 = slope4(odd(g4), odd(x4), hi, lo, r, k1, k2, (w4, w5, w6, w7), kind)
            put(gx, o, y0, y1, y2, y3, y4, y5, y6, y7, width, kind)
            i = np.int32(i + across)
            o += step
            d, at = np.int32(d + ahead), np.int32(at + rest)
            if at >= per:
                d, at = np.int32(d + 1), np.int32(at - per)
