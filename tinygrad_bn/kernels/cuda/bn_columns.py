"""Batch normalisation of x (N, C, L) whose runs of L places are short, L = 1 above all: channels innermost.

The passes and their formulas are those of ``bn_rows``; x is seen as N rows of C L columns. A thread has ``width``
columns side by side, whose numbers it keeps, and goes down the rows: a block is ``across`` (a power of 2) threads wide
and THREADS / across rows deep, and takes a share of the rows. Threads above each other are merged by a tree, then the L
columns of a channel in their order; so where values are summed, a block has whole channels, ``group`` of them. Parts of
a channel are as many as there are shares: hundreds, which a kernel of their own merges (``bn_merge.finish`` and
``gather``) ahead of the second pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.bn_merge import of_rows
from tinygrad_bn.kernels.cuda.bn_rows import normal, share_of
from tinygrad_bn.kernels.cuda.curves import bent
from tinygrad_bn.kernels.cuda.entry import device, entry
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import fetch, numbers, put, real

__all__ = ["ACROSS", "LANES"]

ACROSS = 32  # threads that a block is wide, at most
_SHIFTS = 4 * ACROSS
LANES = 4 * THREADS


@device
def lower(raw: Any, k: Any, s: Any, q: Any, kind: Any) -> Any:
    """Add a row to the columns' sums of differences from k, and of their squares."""
    a, b, c, d = numbers(raw, kind)
    k0, k1, k2, k3 = k
    s0, s1, s2, s3 = s
    q0, q1, q2, q3 = q
    a, b, c, d = a - k0, b - k1, c - k2, d - k3
    return (s0 + a, s1 + b, s2 + c, s3 + d), (q0 + a * a, q1 + b * b, q2 + c * c, q3 + d * d)


@device
def settled(t: Any, i: Any, k: Any, first: Any, s: Any, q: Any, count: Any, ms: Any, qs: Any) -> None:
    """Write a column's mean, less the first thread's shift, and its M2 to shared memory."""
    mean = s / count if count > 0.0 else 0.0
    m2 = q - s * mean
    ms[i] = (k - first) + mean
    qs[i] = 0.0 if m2 < 0.0 else m2


@device
def channel_part(g: Any, length: Any, width: Any, n: Any, ks: Any, ms: Any, qs: Any, parts: Any, at: Any) -> None:
    """Merge the columns of a block's channel g, of one count each, in their order."""
    i = g * length
    count = np.float64(n[i // width])
    first = np.float64(ks[i]) + np.float64(ms[i % width * THREADS + i // width])
    total = np.float64(0)
    for j in range(i, i + length):
        m = ms[j % width * THREADS + j // width]
        total += (np.float64(ks[j]) + np.float64(m)) - first
    mean = first + total / np.float64(length)
    m2 = np.float64(0)
    for j in range(i, i + length):
        place = j % width * THREADS + j // width
        d = (np.float64(ks[j]) + np.float64(ms[place])) - mean
        m2 += np.float64(qs[place]) + count * d * d
    parts[at] = count * np.float64(length)
    parts[at + 1] = mean
    parts[at + 2] = m2


@entry(real="statistics", static="width kind")
def _moments(x, statistics, parts, channels, length, group, wide, stride, share, extra, width, kind):  # type: ignore[no-untyped-def]
    n = cuda.shared.array(THREADS, real)
    ks = cuda.shared.array(_SHIFTS, real)
    ms = cuda.shared.array(LANES, real)
    qs = cuda.shared.array(LANES, real)
    t = cuda.threadIdx.x
    stripe, p = cuda.blockIdx.x, cuda.blockIdx.y
    across, by = 1 << wide, THREADS >> wide
    row, lane = t >> wide, t & (across - 1)
    columns = channels * length
    column = stripe * (group * length) + lane * width
    j, end = share_of(p, share, extra) + row, share_of(p + 1, share, extra)
    if lane * width >= group * length or column >= columns:
        j = end
    begin = j
    o = j * columns + column
    step = by * columns
    zero = real(0)
    k, s, q = (zero, zero, zero, zero), (zero, zero, zero, zero), (zero, zero, zero, zero)
    if j < end:
        k = numbers(fetch(x, o, width), kind)
    while j + 3 * by < end:
        r0, r1 = fetch(x, o, width), fetch(x, o + step, width)
        r2, r3 = fetch(x, o + 2 * step, width), fetch(x, o + 3 * step, width)
        s, q = lower(r0, k, s, q, kind)
        s, q = lower(r1, k, s, q, kind)
        s, q = lower(r2, k, s, q, kind)
        s, q = lower(r3, k, s, q, kind)
        j += 4 * by
        o += 4 * step
    while j < end:
        s, q = lower(fetch(x, o, width), k, s, q, kind)
        j += by
        o += step
    k0, k1, k2, k3 = k
    s0, s1, s2, s3 = s
    q0, q1, q2, q3 = q
    i = lane * width
    if row == 0:
        ks[i] = k0
        if width == 4:
            ks[i + 1] = k1
            ks[i + 2] = k2
            ks[i + 3] = k3
    cuda.syncthreads()
    count = real((j - begin) // by)
    n[t] = count
    settled(t, t, k0, ks[i], s0, q0, count, ms, qs)
    if width == 4:
        settled(t, t + THREADS, k1, ks[i + 1], s1, q1, count, ms, qs)
        settled(t, t + 2 * THREADS, k2, ks[i + 2], s2, q2, count, ms, qs)
        settled(t, t + 3 * THREADS, k3, ks[i + 3], s3, q3, count, ms, qs)
    cuda.syncthreads()
    of_rows(t, across, width, n, ms, qs)
    g = t
    while g < group:
        c = stripe * group + g
        if c < channels:
            channel_part(g, length, width, n, ks, ms, qs, parts, 3 * (stride * c + p))
        g += THREADS


@device
def channels_of(column: Any, length: Any, width: Any) -> Any:
    """The channels of a thread's columns; of one column, four times its."""
    c = np.int64(np.uint32(column) // np.uint32(length))
    if width == 1:
        return c, c, c, c
    d, e = np.uint32(column + 1) // np.uint32(length), np.uint32(column + 2) // np.uint32(length)
    return c, np.int64(d), np.int64(e), np.int64(np.uint32(column + 3) // np.uint32(length))


@device
def of_channel(c: Any, channels: Any, statistics: Any, weight: Any, bias: Any, weighted: Any, biased: Any) -> Any:
    gain = statistics[3 * channels + c]
    if weighted:
        gain = gain * weight[c]
    return statistics[c], statistics[channels + c], gain, bias[c] if biased else real(0)


@device
def row_apply(
    raw: Any, more: Any, y: Any, o: Any, c0: Any, c1: Any, c2: Any, c3: Any, act: Any, slope: Any, added: Any,
    width: Any, kind: Any,
) -> None:  # fmt: skip
    a, b, c, d = numbers(raw, kind)
    e, f, g, h = numbers(more, kind)
    a = normal(a, e, c0[0], c0[1], c0[2], c0[3], act, slope, added)
    if width == 4:
        b = normal(b, f, c1[0], c1[1], c1[2], c1[3], act, slope, added)
        c = normal(c, g, c2[0], c2[1], c2[2], c2[3], act, slope, added)
        d = normal(d, h, c3[0], c3[1], c3[2], c3[3], act, slope, added)
    put(y, o, a, b, c, d, a, b, c, d, width, kind)


@entry(real="statistics", static="width kind act added")
def _apply(  # type: ignore[no-untyped-def]
    x, r, weight, bias, statistics, slope, y, weighted, biased,
    channels, length, wide, share, extra, width, kind, act, added,
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
        j, end = share_of(p, share, extra) + row, share_of(p + 1, share, extra)
        o = j * columns + column
        step = by * columns
        if not added:
            while j + 3 * by < end:
                r0, r1 = fetch(x, o, width), fetch(x, o + step, width)
                r2, r3 = fetch(x, o + 2 * step, width), fetch(x, o + 3 * step, width)
                row_apply(r0, r0, y, o, c0, c1, c2, c3, act, slope, 0, width, kind)
                row_apply(r1, r1, y, o + step, c0, c1, c2, c3, act, slope, 0, width, kind)
                row_apply(r2, r2, y, o + 2 * step, c0, c1, c2, c3, act, slope, 0, width, kind)
                row_apply(r3, r3, y, o + 3 * step, c0, c1, c2, c3, act, slope, 0, width, kind)
                j += 4 * by
                o += 4 * step
        else:
            while j + by < end:
                r0, r1 = fetch(x, o, width), fetch(x, o + step, width)
                m0, m1 = fetch(r, o, width), fetch(r, o + step, width)
                row_apply(r0, m0, y, o, c0, c1, c2, c3, act, slope, 1, width, kind)
                row_apply(r1, m1, y, o + step, c0, c1, c2, c3, act, slope, 1, width, kind)
                j += 2 * by
                o += 2 * step
        while j < end:
            r0 = fetch(x, o, width)
            m0 = fetch(r, o, width) if added else r0
            row_apply(r0, m0, y, o, c0, c1, c2, c3, act, slope, added, width, kind)
            j += by
            o += step


@device
def slope_of(g: Any, x: Any, k: Any, c: Any, act: Any, slope: Any, role: Any) -> Any:
    """g act' and (x - hi) - lo."""
    return bent(g, x, k, c[0], c[1], c[2], c[3], act, slope, role), (x - c[0]) - c[1]
