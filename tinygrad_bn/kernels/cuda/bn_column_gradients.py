"""The gradients of batch normalisation where channels lie innermost; see ``bn_columns``."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.bn_columns import LANES, channels_of, of_channel, slope_of
from tinygrad_bn.kernels.cuda.bn_merge import total_of_rows
from tinygrad_bn.kernels.cuda.bn_rows import share_of
from tinygrad_bn.kernels.cuda.entry import device, entry
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import fetch, numbers, put, real


@device
def row_sums(
    g4: Any, x4: Any, k4: Any, gr: Any, gx: Any, o: Any, s: Any, w: Any, c0: Any, c1: Any, c2: Any, c3: Any,
    act: Any, slope: Any, role: Any, writes: Any, width: Any, kind: Any,
) -> Any:  # fmt: skip
    a, b, c, d = numbers(g4, kind)
    x0, x1, x2, x3 = numbers(x4, kind)
    k0, k1, k2, k3 = numbers(k4, kind)
    s0, s1, s2, s3 = s
    w0, w1, w2, w3 = w
    a, x0 = slope_of(a, x0, k0, c0, act, slope, role)
    s0, w0 = s0 + a, w0 + a * x0
    if width == 4:
        b, x1 = slope_of(b, x1, k1, c1, act, slope, role)
        c, x2 = slope_of(c, x2, k2, c2, act, slope, role)
        d, x3 = slope_of(d, x3, k3, c3, act, slope, role)
        s1, w1, s2, w2, s3, w3 = s1 + b, w1 + b * x1, s2 + c, w2 + c * x2, s3 + d, w3 + d * x3
    if writes & 1:
        put(gr, o, a, b, c, d, a, b, c, d, width, kind)
    if writes & 2:
        a, b, c, d = c0[2] * a, c1[2] * b, c2[2] * c, c3[2] * d
        put(gx, o, a, b, c, d, a, b, c, d, width, kind)
    return (s0, s1, s2, s3), (w0, w1, w2, w3)


@entry(real="statistics", static="width kind act role writes")
def _sums(  # type: ignore[no-untyped-def]
    gy, x, kept, weight, bias, statistics, slope, gr, gx, parts, weighted, biased,
    channels, length, group, wide, stride, share, extra, width, kind, act, role, writes,
):  # fmt: skip
    ps = cuda.shared.array(LANES, real)
    qs = cuda.shared.array(LANES, real)
    t = cuda.threadIdx.x
    stripe, p = cuda.blockIdx.x, cuda.blockIdx.y
    across, by = 1 << wide, THREADS >> wide
    row, lane = t >> wide, t & (across - 1)
    columns = channels * length
    column = stripe * (group * length) + lane * width
    zero = real(0)
    s, w = (zero, zero, zero, zero), (zero, zero, zero, zero)
    if lane * width < group * length and column < columns:
        i0, i1, i2, i3 = channels_of(column, length, width)
        c0 = of_channel(i0, channels, statistics, weight, bias, weighted, biased)
        c1 = of_channel(i1, channels, statistics, weight, bias, weighted, biased)
        c2 = of_channel(i2, channels, statistics, weight, bias, weighted, biased)
        c3 = of_channel(i3, channels, statistics, weight, bias, weighted, biased)
        j, end = share_of(p, share, extra) + row, share_of(p + 1, share, extra)
        o = j * columns + column
        step = by * columns
        while j + by < end:
            g0, x0, g1, x1 = (
                fetch(gy, o, width),
                fetch(x, o, width),
                fetch(gy, o + step, width),
                fetch(x, o + step, width),
            )
            k0 = fetch(kept, o, width) if role else x0
            k1 = fetch(kept, o + step, width) if role else x1
            s, w = row_sums(g0, x0, k0, gr, gx, o, s, w, c0, c1, c2, c3, act, slope, role, writes, width, kind)
            s, w = row_sums(g1, x1, k1, gr, gx, o + step, s, w, c0, c1, c2, c3, act, slope, role, writes, width, kind)
            j += 2 * by
            o += 2 * step
        if j < end:
            g0, x0 = fetch(gy, o, width), fetch(x, o, width)
            k0 = fetch(kept, o, width) if role else x0
            s, w = row_sums(g0, x0, k0, gr, gx, o, s, w, c0, c1, c2, c3, act, slope, role, writes, width, kind)
    s0, s1, s2, s3 = s
    w0, w1, w2, w3 = w
    ps[t] = s0
    qs[t] = w0
    if width == 4:
        ps[t + THREADS] = s1
        qs[t + THREADS] = w1
        ps[t + 2 * THREADS] = s2
        qs[t + 2 * THREADS] = w2
        ps[t + 3 * THREADS] = s3
        qs[t + 3 * THREADS] = w3
    cuda.syncthreads()
    total_of_rows(t, across, width, ps, qs)
    g = t
    while g < group:
        ch = stripe * group + g
        if ch < channels:
            a, b = np.float64(0), np.float64(0)
            for i in range(g * length, (g + 1) * length):
                a += np.float64(ps[i % width * THREADS + i // width])
                b += np.float64(qs[i % width * THREADS + i // width])
            parts[3 * (stride * ch + p) + 1] = a
            parts[3 * (stride * ch + p) + 2] = b
        g += THREADS


@device
def row_gradient(
    g4: Any, x4: Any, gx: Any, o: Any, c0: Any, c1: Any, c2: Any, c3: Any, m0: Any, m1: Any, m2: Any, m3: Any,
    act: Any, slope: Any, width: Any, kind: Any,
) -> None:  # fmt: skip
    a, b, c, d = numbers(g4, kind)
    x0, x1, x2, x3 = numbers(x4, kind)
    a, x0 = slope_of(a, x0, x0, c0, act, slope, 0)
    a = c0[2] * ((a - m0[0]) - x0 * m0[1])
    if width == 4:
        b, x1 = slope_of(b, x1, x1, c1, act, slope, 0)
        c, x2 = slope_of(c, x2, x2, c2, act, slope, 0)
        d, x3 = slope_of(d, x3, x3, c3, act, slope, 0)
        b, c = c1[2] * ((b - m1[0]) - x1 * m1[1]), c2[2] * ((c - m2[0]) - x2 * m2[1])
        d = c3[2] * ((d - m3[0]) - x3 * m3[1])
    put(gx, o, a, b, c, d, a, b, c, d, width, kind)


@device
def means_of(parts: Any, at: Any) -> Any:
    """k1 and k2."""
    return real(parts[at + 1]), real(parts[at + 2])


@entry(real="statistics", static="width kind act")
def _gradient(  # type: ignore[no-untyped-def]
    g, x, weight, bias, statistics, parts, slope, gx, weighted, biased,
    channels, length, wide, stride, share, extra, width, kind, act,
):  # fmt: skip
    t = cuda.threadIdx.x
    stripe, p = cuda.blockIdx.x, cuda.gridDim.y - 1 - cuda.blockIdx.y
    across, by = 1 << wide, THREADS >> wide
    row, lane = t >> wide, t & (across - 1)
    columns = channels * length
    column = (stripe * across + lane) * width
    if column < columns:
        i0, i1, i2, i3 = channels_of(column, length, width)
        c0 = of_channel(i0, channels, statistics, weight, bias, weighted, biased)
        c1 = of_channel(i1, channels, statistics, weight, bias, weighted, biased)
        c2 = of_channel(i2, channels, statistics, weight, bias, weighted, biased)
        c3 = of_channel(i3, channels, statistics, weight, bias, weighted, biased)
        m0, m1 = means_of(parts, 3 * stride * i0), means_of(parts, 3 * stride * i1)
        m2, m3 = means_of(parts, 3 * stride * i2), means_of(parts, 3 * stride * i3)
        j, end = share_of(p, share, extra) + row, share_of(p + 1, share, extra)
        o = j * columns + column
        step = by * columns
        while j + by < end:
            g0, x0, g1, x1 = (
                fetch(g, o, width),
                fetch(x, o, width),
                fetch(g, o + step, width),
                fetch(x, o + step, width),
            )
            row_gradient(g0, x0, gx, o, c0, c1, c2, c3, m0, m1, m2, m3, act, slope, width, kind)
            row_gradient(g1, x1, gx, o + step, c0, c1, c2, c3, m0, m1, m2, m3, act, slope, width, kind)
            j += 2 * by
            o += 2 * step
        if j < end:
            g0, x0 = fetch(g, o, width), fetch(x, o, width)
            row_gradient(g0, x0, gx, o, c0, c1, c2, c3, m0, m1, m2, m3, act, slope, width, kind)
