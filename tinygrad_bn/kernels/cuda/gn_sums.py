"""Group norm's gradients of weight and bias, Σ gy x̂ and Σ gy of a channel, in parts of the batch; see ``group_norm``.

Long runs of places go as in ``bn_rows``, short ones, layer norm's of one place above all, as in ``bn_columns``: but
mean and invstd are those of a row, and change from sample to sample. ``sums`` (P, 2, C), float64, has the parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.bn_columns import LANES
from tinygrad_bn.kernels.cuda.bn_merge import total_of_rows
from tinygrad_bn.kernels.cuda.bn_rows import place, share_of
from tinygrad_bn.kernels.cuda.entry import device, entry
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import fetch, numbers, odd, real

__all__: list[str] = []


@device
def unit_hats(g4: Any, x4: Any, hi: Any, lo: Any, r: Any, s: Any, w: Any, width: Any, kind: Any) -> Any:
    """Add gy and gy x̂ of a unit to their sums."""
    a, b, c, d = numbers(g4, kind)
    e, f, g, h = numbers(x4, kind)
    if width == 1:
        return s + a, w + a * (((e - hi) - lo) * r)
    s = s + ((a + b) + (c + d))
    e, f, g, h = (e - hi) - lo, (f - hi) - lo, (g - hi) - lo, (h - hi) - lo
    total = (a * e + b * f) + (c * g + d * h)
    if width == 8:
        a, b, c, d = numbers(odd(g4), kind)
        e, f, g, h = numbers(odd(x4), kind)
        s = s + ((a + b) + (c + d))
        e, f, g, h = (e - hi) - lo, (f - hi) - lo, (g - hi) - lo, (h - hi) - lo
        total = total + ((a * e + b * f) + (c * g + d * h))
    return s, w + total * r


@entry(real="statistics", static="width kind")
def _rows(  # type: ignore[no-untyped-def]
    gy, x, statistics, sums, table, groups, depth, length, per, step, jump, whole, share, extra, width, kind
):
    a = cuda.shared.array(THREADS, real)
    b = cuda.shared.array(THREADS, real)
    t = cuda.threadIdx.x
    c, part = cuda.blockIdx.x, cuda.blockIdx.y
    channels = groups * depth
    j = share_of(part, share, extra) + t
    left = np.int32((share_of(part + 1, share, extra) - j + (THREADS - 1)) // THREADS)
    o, at = place(c, j, per, channels, length, width)
    n = np.int64(np.uint64(j) // np.uint64(per))
    row = n * groups + c // depth
    s, w = real(0), real(0)
    while left > 0:
        g4, x4 = fetch(gy, o, width), fetch(x, o, width)
        hi, lo, r = statistics[row], statistics[table + row], statistics[3 * table + row]
        s, w = unit_hats(g4, x4, hi, lo, r, s, w, width, kind)
        at, o, row = np.int32(at + step), o + jump, row + whole * groups
        if at >= per:
            at, o, row = np.int32(at - per), o + (channels - 1) * length, row + groups
        left = np.int32(left - 1)
    a[t] = s
    b[t] = w
    cuda.syncthreads()
    total_of_rows(t, 1, 1, a, b)
    if t == 0:
        sums[2 * part * channels + c] = np.float64(b[0])
        sums[(2 * part + 1) * channels + c] = np.float64(a[0])


@device
def row_hats(raw: Any, more: Any, groups: Any, sums: Any, statistics: Any, table: Any, kind: Any, width: Any) -> Any:
    """Add a row's gy and gy x̂ to the columns' sums; ``groups`` are the columns' rows of statistics."""
    a, b, c, d = numbers(raw, kind)
    x0, x1, x2, x3 = numbers(more, kind)
    r0, r1, r2, r3 = groups
    s0, s1, s2, s3, w0, w1, w2, w3 = sums
    w0 = w0 + a * (((x0 - statistics[r0]) - statistics[table + r0]) * statistics[3 * table + r0])
    s0 = s0 + a
    if width == 4:
        w1 = w1 + b * (((x1 - statistics[r1]) - statistics[table + r1]) * statistics[3 * table + r1])
        w2 = w2 + c * (((x2 - statistics[r2]) - statistics[table + r2]) * statistics[3 * table + r2])
        w3 = w3 + d * (((x3 - statistics[r3]) - statistics[table + r3]) * statistics[3 * table + r3])
        s1, s2, s3 = s1 + b, s2 + c, s3 + d
    return s0, s1, s2, s3, w0, w1, w2, w3


@entry(real="statistics", static="width kind same")
def _columns(  # type: ignore[no-untyped-def]
    gy, x, statistics, sums, table, groups, depth, length, group, wide, share, extra, width, kind, same
):
    ps = cuda.shared.array(LANES, real)
    qs = cuda.shared.array(LANES, real)
    t = cuda.threadIdx.x
    stripe, part = cuda.blockIdx.x, cuda.blockIdx.y
    across, by = 1 << wide, THREADS >> wide
    row, lane = t >> wide, t & (across - 1)
    channels = groups * depth
    columns = channels * length
    column = stripe * (group * length) + lane * width
    z = real(0)
    found = (z, z, z, z, z, z, z, z)
    if lane * width < group * length and column < columns:
        run = depth * length
        g0 = np.int64(np.uint32(column) // np.uint32(run))
        g1, g2, g3 = g0, g0, g0
        if not same:
            g1 = np.int64(np.uint32(column + 1) // np.uint32(run))
            g2 = np.int64(np.uint32(column + 2) // np.uint32(run))
            g3 = np.int64(np.uint32(column + 3) // np.uint32(run))
        j, end = share_of(part, share, extra) + row, share_of(part + 1, share, extra)
        while j + by < end:
            o, n, m = j * columns + column, j * groups, (j + by) * groups
            a0, x0 = fetch(gy, o, width), fetch(x, o, width)
            a1, x1 = fetch(gy, o + by * columns, width), fetch(x, o + by * columns, width)
            found = row_hats(a0, x0, (n + g0, n + g1, n + g2, n + g3), found, statistics, table, kind, width)
            found = row_hats(a1, x1, (m + g0, m + g1, m + g2, m + g3), found, statistics, table, kind, width)
            j += 2 * by
        if j < end:
            o, n = j * columns + column, j * groups
            a0, x0 = fetch(gy, o, width), fetch(x, o, width)
            found = row_hats(a0, x0, (n + g0, n + g1, n + g2, n + g3), found, statistics, table, kind, width)
    s0, s1, s2, s3, w0, w1, w2, w3 = found
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
        c = stripe * group + g
        if c < channels:
            a, b = np.float64(0), np.float64(0)
            for i in range(g * length, (g + 1) * length):
                a += np.float64(ps[i % width * THREADS + i // width])
                b += np.float64(qs[i % width * THREADS + i // width])
            sums[2 * part * channels + c] = b
            sums[(2 * part + 1) * channels + c] = a
        g += THREADS


@entry(real="statistics")
def _total(sums, statistics, parts, channels, gweight, gbias, weighted, biased):  # type: ignore[no-untyped-def]
    c = cuda.grid(1)
    if c < channels:
        a, b = np.float64(0), np.float64(0)
        for p in range(parts):
            a += sums[2 * p * channels + c]
            b += sums[(2 * p + 1) * channels + c]
        if weighted:
            gweight[c] = real(a)
        if biased:
            gbias[c] = real(b)
