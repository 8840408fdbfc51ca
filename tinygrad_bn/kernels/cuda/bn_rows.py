"""Batch normalisation of x (N, C, L) whose runs of L places are long: a block takes a share of one channel.

    moments    parts (C, P, 3): count, mean, M2                  reads x
    apply      y = act(((x - hi) - lo) gain + beta (+ r))        reads x (r), writes y
    sums       Σ g and Σ g d, d = (x - hi) - lo, g = gy act'     reads gy, x (what is kept), writes g or gain g if asked
    gradient   gx = gain (g - k1 - d k2)                         reads gy, x, writes gx

Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1 and section 3. Of ReLU and other activations nothing is kept but x:
slopes are found twice from it. Two launches a direction: what reads last merges the parts (``bn_merge``) ahead of its
work, and its block 0 of each channel writes the results. It begins with the last channels, which are still in the L2
cache. Memory traffic a direction is 3 and 5 values an element, less what the cache keeps of the second reading.

A channel's N L places are units of ``width`` elements (``words``); P blocks share them evenly, whatever N and L are. A
thread goes from unit to unit, THREADS further on, by an addition: ``step`` units and ``jump`` elements, and ``wrap``
elements where that leaves the run. Four accesses of 16 bytes are under way in each thread. Its statistics are sums
shifted by its own first value, so that cancellation is bounded whatever the data are: M2 >= (k - mean)².
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.bn_merge import merged_moments, merged_sums, of_block, total_of_rows
from tinygrad_bn.kernels.cuda.curves import bent, curve
from tinygrad_bn.kernels.cuda.entry import device, entry
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import fetch, first_of, number, numbers, odd, put, real

__all__ = ["normal"]


@device
def onward(o: Any, at: Any, per: Any, step: Any, jump: Any, wrap: Any) -> Any:
    """The unit THREADS further on: its first element, and its place in its run."""
    at = np.int32(at + step)
    o = o + jump
    if at >= per:
        at = np.int32(at - per)
        o = o + wrap
    return o, at


@device
def share_of(p: Any, share: Any, extra: Any) -> Any:
    """The first unit of block p's share; the first ``extra`` blocks have one more."""
    return p * share + min(p, extra)


@device
def place(c: Any, j: Any, per: Any, channels: Any, length: Any, width: Any) -> Any:
    """Unit j of a channel: its first element, and its place in its run."""
    n = np.int64(np.uint64(j) // np.uint64(per))
    at = np.int32(j - n * per)
    return (n * channels + c) * length + at * width, at


@device
def shifted(a: Any, b: Any, c: Any, d: Any, k: Any, s: Any, q: Any) -> Any:
    """Sums of the differences from k, and of their squares, four numbers further on."""
    a, b, c, d = a - k, b - k, c - k, d - k
    return s + ((a + b) + (c + d)), q + ((a * a + b * b) + (c * c + d * d))


@device
def unit_moments(raw: Any, k: Any, s: Any, q: Any, width: Any, kind: Any) -> Any:
    a, b, c, d = raw
    if width == 1:
        e = number(a, kind) - k
        return s + e, q + e * e
    s, q = shifted(number(a, kind), number(b, kind), number(c, kind), number(d, kind), k, s, q)
    if width == 8:
        e, f, g, h = numbers(odd(raw), kind)
        s, q = shifted(e, f, g, h, k, s, q)
    return s, q


@entry(real="statistics", static="width kind")
def _moments(x, statistics, parts, channels, length, per, step, jump, stride, share, extra, width, kind):  # type: ignore[no-untyped-def]
    t = cuda.threadIdx.x
    c, p = cuda.blockIdx.x, cuda.blockIdx.y
    j = share_of(p, share, extra) + t
    left = np.int32((share_of(p + 1, share, extra) - j + (THREADS - 1)) // THREADS)
    count = real(left * width)
    o, at = place(c, j, per, channels, length, width)
    wrap = (channels - 1) * length
    k, s, q = real(0), real(0), real(0)
    if left > 0:
        k = first_of(x, o, width, kind)
    while left >= 4:
        o1, at = onward(o, at, per, step, jump, wrap)
        o2, at = onward(o1, at, per, step, jump, wrap)
        o3, at = onward(o2, at, per, step, jump, wrap)
        r0, r1, r2, r3 = fetch(x, o, width), fetch(x, o1, width), fetch(x, o2, width), fetch(x, o3, width)
        s, q = unit_moments(r0, k, s, q, width, kind)
        s, q = unit_moments(r1, k, s, q, width, kind)
        s, q = unit_moments(r2, k, s, q, width, kind)
        s, q = unit_moments(r3, k, s, q, width, kind)
        o, at = onward(o3, at, per, step, jump, wrap)
        left = np.int32(left - 4)
    while left > 0:
        s, q = unit_moments(fetch(x, o, width), k, s, q, width, kind)
        o, at = onward(o, at, per, step, jump, wrap)
        left = np.int32(left - 1)
    mean = real(0)
    if count > 0.0:
        mean = s / count
        q = q - s * mean
        q = 0.0 if q < 0.0 else q
    of_block(t, count, k, mean, q, parts, 3 * (stride * c + p))


@device
def normal(v: Any, r: Any, hi: Any, lo: Any, gain: Any, beta: Any, act: Any, slope: Any, added: Any) -> Any:
    z = ((v - hi) - lo) * gain + beta
    if added:
        z = z + r
    return curve(z, act, slope)


@device
def unit_apply(
    raw: Any, more: Any, y: Any, o: Any, hi: Any, lo: Any, gain: Any, beta: Any, act: Any, slope: Any, added: Any,
    width: Any, kind: Any,
) -> None:  # fmt: skip
    a, b, c, d = numbers(raw, kind)
    e, f, g, h = numbers(more, kind)
    p = normal(a, e, hi, lo, gain, beta, act, slope, added)
    q, u, v = p, p, p
    if width > 1:
        q = normal(b, f, hi, lo, gain, beta, act, slope, added)
        u = normal(c, g, hi, lo, gain, beta, act, slope, added)
        v = normal(d, h, hi, lo, gain, beta, act, slope, added)
    p1, q1, u1, v1 = p, q, u, v
    if width == 8:
        a, b, c, d = numbers(odd(raw), kind)
        e, f, g, h = numbers(odd(more), kind)
        p1 = normal(a, e, hi, lo, gain, beta, act, slope, added)
        q1 = normal(b, f, hi, lo, gain, beta, act, slope, added)
        u1 = normal(c, g, hi, lo, gain, beta, act, slope, added)
        v1 = normal(d, h, hi, lo, gain, beta, act, slope, added)
    put(y, o, p, q, u, v, p1, q1, u1, v1, width, kind)


@entry(real="statistics", static="width kind act added merges")
def _apply(  # type: ignore[no-untyped-def]
    x, r, weight, bias, statistics, parts, eps, slope, y, weighted, biased,
    channels, length, per, step, jump, stride, cuts, share, extra, width, kind, act, added, merges,
):  # fmt: skip
    found = cuda.shared.array(4, real)
    t = cuda.threadIdx.x
    c, p = cuda.blockIdx.x, cuda.gridDim.y - 1 - cuda.blockIdx.y
    if merges:
        merged_moments(t, parts, 3 * stride * c, cuts, eps, c, channels, statistics, p == 0, found)
        hi, lo, gain = found[0], found[1], found[2]
    else:
        hi, lo, gain = statistics[c], statistics[channels + c], statistics[3 * channels + c]
    if weighted:
        gain = gain * weight[c]
    beta = bias[c] if biased else real(0)
    j = share_of(p, share, extra) + t
    left = np.int32((share_of(p + 1, share, extra) - j + (THREADS - 1)) // THREADS)
    o, at = place(c, j, per, channels, length, width)
    wrap = (channels - 1) * length
    if not added and width < 8:
        while left >= 4:
            o1, at = onward(o, at, per, step, jump, wrap)
            o2, at = onward(o1, at, per, step, jump, wrap)
            o3, at = onward(o2, at, per, step, jump, wrap)
            r0, r1, r2, r3 = fetch(x, o, width), fetch(x, o1, width), fetch(x, o2, width), fetch(x, o3, width)
            unit_apply(r0, r0, y, o, hi, lo, gain, beta, act, slope, 0, width, kind)
            unit_apply(r1, r1, y, o1, hi, lo, gain, beta, act, slope, 0, width, kind)
            unit_apply(r2, r2, y, o2, hi, lo, gain, beta, act, slope, 0, width, kind)
            unit_apply(r3, r3, y, o3, hi, lo, gain, beta, act, slope, 0, width, kind)
            o, at = onward(o3, at, per, step, jump, wrap)
            left = np.int32(left - 4)
    else:
        while left >= 2:
            o1, at = onward(o, at, per, step, jump, wrap)
            r0, r2 = fetch(x, o, width), fetch(x, o1, width)
            r1, r3 = r0, r2
            if added:
                r1, r3 = fetch(r, o, width), fetch(r, o1, width)
            unit_apply(r0, r1, y, o, hi, lo, gain, beta, act, slope, added, width, kind)
            unit_apply(r2, r3, y, o1, hi, lo, gain, beta, act, slope, added, width, kind)
            o, at = onward(o1, at, per, step, jump, wrap)
            left = np.int32(left - 2)
    while left > 0:
        r0 = fetch(x, o, width)
        r1 = fetch(r, o, width) if added else r0
        unit_apply(r0, r1, y, o, hi, lo, gain, beta, act, slope, added, width, kind)
        o, at = onward(o, at, per, step, jump, wrap)
        left = np.int32(left - 1)


@device
def unit_slopes(
    g4: Any, x4: Any, k4: Any, hi: Any, lo: Any, gain: Any, beta: Any, act: Any, slope: Any, role: Any,
    width: Any, kind: Any,
) -> Any:  # fmt: skip
    """g act' and (x - hi) - lo of the elements of a unit: the even ones', or all four."""
    a, b, c, d = numbers(g4, kind)
    e, f, g, h = numbers(x4, kind)
    p, q, u, v = numbers(k4, kind)
    a = bent(a, e, p, hi, lo, gain, beta, act, slope, role)
    e = (e - hi) - lo
    if width == 1:
        return a, real(0), real(0), real(0), e, real(0), real(0), real(0)
    b = bent(b, f, q, hi, lo, gain, beta, act, slope, role)
    c = bent(c, g, u, hi, lo, gain, beta, act, slope, role)
    d = bent(d, h, v, hi, lo, gain, beta, act, slope, role)
    return a, b, c, d, e, (f - hi) - lo, (g - hi) - lo, (h - hi) - lo


@device
def unit_sums(
    g4: Any, x4: Any, k4: Any, gr: Any, gx: Any, o: Any, s: Any, w: Any, hi: Any, lo: Any, gain: Any, beta: Any,
    act: Any, slope: Any, role: Any, writes: Any, width: Any, kind: Any,
) -> Any:  # fmt: skip
    a, b, c, d, e, f, g, h = unit_slopes(g4, x4, k4, hi, lo, gain, beta, act, slope, role, width, kind)
    s = s + ((a + b) + (c + d))
    w = w + ((a * e + b * f) + (c * g + d * h))
    p, q, u, v = a, b, c, d
    if width == 8:
        p, q, u, v, e, f, g, h = unit_slopes(
            odd(g4), odd(x4), odd(k4), hi, lo, gain, beta, act, slope, role, width, kind
        )
        s = s + ((p + q) + (u + v))
        w = w + ((p * e + q * f) + (u * g + v * h))
    if writes & 1:
        put(gr, o, a, b, c, d, p, q, u, v, width, kind)
    if writes & 2:
        put(gx, o, gain * a, gain * b, gain * c, gain * d, gain * p, gain * q, gain * u, gain * v, width, kind)
    return s, w


@entry(real="statistics", static="width kind act role writes")
def _sums(  # type: ignore[no-untyped-def]
    gy, x, kept, weight, bias, statistics, slope, gr, gx, parts, weighted, biased,
    channels, length, per, step, jump, stride, share, extra, width, kind, act, role, writes,
):  # fmt: skip
    a = cuda.shared.array(THREADS, real)
    b = cuda.shared.array(THREADS, real)
    t = cuda.threadIdx.x
    c, p = cuda.blockIdx.x, cuda.blockIdx.y
    hi, lo, gain = statistics[c], statistics[channels + c], statistics[3 * channels + c]
    if weighted:
        gain = gain * weight[c]
    beta = bias[c] if biased else real(0)
    j = share_of(p, share, extra) + t
    left = np.int32((share_of(p + 1, share, extra) - j + (THREADS - 1)) // THREADS)
    o, at = place(c, j, per, channels, length, width)
    wrap = (channels - 1) * length
    s, w = real(0), real(0)
    while left >= 2:
        o1, at = onward(o, at, per, step, jump, wrap)
        g0, x0, g1, x1 = fetch(gy, o, width), fetch(x, o, width), fetch(gy, o1, width), fetch(x, o1, width)
        k0 = fetch(kept, o, width) if role else x0
        k1 = fetch(kept, o1, width) if role else x1
        s, w = unit_sums(g0, x0, k0, gr, gx, o, s, w, hi, lo, gain, beta, act, slope, role, writes, width, kind)
        s, w = unit_sums(g1, x1, k1, gr, gx, o1, s, w, hi, lo, gain, beta, act, slope, role, writes, width, kind)
        o, at = onward(o1, at, per, step, jump, wrap)
        left = np.int32(left - 2)
    if left > 0:
        g0, x0 = fetch(gy, o, width), fetch(x, o, width)
        k0 = fetch(kept, o, width) if role else x0
        s, w = unit_sums(g0, x0, k0, gr, gx, o, s, w, hi, lo, gain, beta, act, slope, role, writes, width, kind)
    a[t] = s
    b[t] = w
    cuda.syncthreads()
    total_of_rows(t, 1, 1, a, b)
    if t == 0:
        parts[3 * (stride * c + p) + 1] = np.float64(a[0])
        parts[3 * (stride * c + p) + 2] = np.float64(b[0])


@device
def unit_gradient(
    g4: Any, x4: Any, gx: Any, o: Any, hi: Any, lo: Any, gain: Any, beta: Any, k1: Any, k2: Any, act: Any, slope: Any,
    width: Any, kind: Any,
) -> None:  # fmt: skip
    a, b, c, d, e, f, g, h = unit_slopes(g4, x4, x4, hi, lo, gain, beta, act, slope, 0, width, kind)
    a, b = gain * ((a - k1) - e * k2), gain * ((b - k1) - f * k2)
    c, d = gain * ((c - k1) - g * k2), gain * ((d - k1) - h * k2)
    p, q, u, v = a, b, c, d
    if width == 8:
        p, q, u, v, e, f, g, h = unit_slopes(odd(g4), odd(x4), odd(x4), hi, lo, gain, beta, act, slope, 0, width, kind)
        p, q = gain * ((p - k1) - e * k2), gain * ((q - k1) - f * k2)
        u, v = gain * ((u - k1) - g * k2), gain * ((v - k1) - h * k2)
    put(gx, o, a, b, c, d, p, q, u, v, width, kind)


@entry(real="statistics", static="width kind act merges")
def _gradient(  # type: ignore[no-untyped-def]
    g, x, weight, bias, statistics, parts, count, slope, gx, gweight, gbias, weighted, biased,
    channels, length, per, step, jump, stride, cuts, share, extra, width, kind, act, merges,
):  # fmt: skip
    found = cuda.shared.array(4, np.float64)
    t = cuda.threadIdx.x
    c, p = cuda.blockIdx.x, cuda.gridDim.y - 1 - cuda.blockIdx.y
    hi, lo, gain = statistics[c], statistics[channels + c], statistics[3 * channels + c]
    if merges:
        merged_sums(t, parts, 3 * stride * c, cuts, gain, count, found)
        k1, k2 = real(found[2]), real(found[3])
        if t == 0 and p == 0:
            gbias[c] = real(found[0])
            gweight[c] = real(found[1])
    else:
        k1, k2 = real(parts[3 * stride * c + 1]), real(parts[3 * stride * c + 2])
    if weighted:
        gain = gain * weight[c]
    beta = bias[c] if biased else real(0)
    j = share_of(p, share, extra) + t
    left = np.int32((share_of(p + 1, share, extra) - j + (THREADS - 1)) // THREADS)
    o, at = place(c, j, per, channels, length, width)
    wrap = (channels - 1) * length
    while left >= 2:
        o1, at = onward(o, at, per, step, jump, wrap)
        g0, x0, g1, x1 = fetch(g, o, width), fetch(x, o, width), fetch(g, o1, width), fetch(x, o1, width)
        unit_gradient(g0, x0, gx, o, hi, lo, gain, beta, k1, k2, act, slope, width, kind)
        unit_gradient(g1, x1, gx, o1, hi, lo, gain, beta, k1, k2, act, slope, width, kind)
        o, at = onward(o1, at, per, step, jump, wrap)
        left = np.int32(left - 2)
    if left > 0:
        unit_gradient(
            fetch(g, o, width), fetch(x, o, width), gx, o, hi, lo, gain, beta, k1, k2, act, slope, width, kind
        )
