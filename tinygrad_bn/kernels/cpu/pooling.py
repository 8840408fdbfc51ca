"""Planes (P, H, W): pooled over windows, and read at other rows and columns.

    max_pool     y[p, r, c] = max over i, j of x[p, r sh - ph + i dh, c sw - pw + j dw], where that lies in the plane
    avg_pool     y[p, r, c] = Σ x[p, a ≤ h < b, u ≤ w < v] / (m n),  (a, b, m) = rows[r], (u, v, n) = columns[c]
    take_grid    y[p, r, c] = x[p, rows[r], columns[c]]

The windows of a maximum fall into rectangles that lie alike: one within the plane, whose loop is free of branches and
vectorises for the usual windows, others along the edges. Planes that hold a NaN are gone through with care. An average
adds up rows first, which vectorises, then stretches of that row; its gradient goes the same way back. Planes are the
shares of the pool; in each the order of additions is fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.simd import pointer_to

GRAIN = 1 << 15


@jit(inline=True)
def alike(
    x: Any, width: Any, r0: Any, r1: Any, c0: Any, c1: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any,
    dh: Any, dw: Any, careful: Any, out: Any, index: Any, columns: Any,
) -> None:  # fmt: skip
    """The results r0 ≤ r < r1, c0 ≤ c < c1, whose windows all lie within the plane.

    Literal kh, kw, sw, dw unroll the windows. A single comparison of each value keeps the loop free of branches, which
    random values would have the processor guess in vain; another, for NaN, only ``careful`` brings in.
    """
    for r in range(r0, r1):
        row = (r * sh - ph) * width - pw
        o = r * columns
        for c in range(c0, c1):
            at = row + c * sw
            place = at
            best = x[at]
            for i in range(kh):
                for j in range(kw):
                    here = at + i * dh * width + j * dw
                    v = x[here]
                    larger = (v > best) | (careful & (v != v))
                    best = v if larger else best
                    place = here if larger else place
            out[o + c] = best
            index[o + c] = place


@jit()
def has_nan(x: Any, n: Any) -> Any:
    found = False
    for i in range(n):
        found |= x[i] != x[i]
    return found


@jit()
def stretch(r: Any, size: Any, n: Any, k: Any, s: Any, p: Any, d: Any) -> Any:
    """The windows from the r-th on that lie alike on an axis of n: where they end, how many of their elements lie
    within, and the padding ahead with which the first of these is the window's first."""
    first = r * s - p
    last = (n - 1 - (k - 1) * d + p) // s + 1
    if first >= 0 and r < last:
        return min(size, last), k, p
    skipped = max(0, -(first // d))
    return r + 1, max(0, min(k, -((first - n) // d)) - skipped), p - skipped * d


@jit()
def max_plane(
    plane: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, dh: Any, dw: Any, pooled: Any, places: Any
) -> None:
    """Rectangles of windows that lie alike: one within the plane, others along its edges."""
    height, width = plane.shape
    rows, columns = pooled.shape
    x, out, index = pointer_to(plane), pointer_to(pooled), pointer_to(places)
    careful = has_nan(x, height * width)
    r0 = 0
    while r0 < rows:
        r1, m, up = stretch(r0, rows, height, kh, sh, ph, dh)
        c0 = 0
        while c0 < columns:
            c1, n, left = stretch(c0, columns, width, kw, sw, pw, dw)
            if m == 0 or n == 0:
                pooled[r0:r1, c0:c1] = -np.inf
                places[r0:r1, c0:c1] = -1
            elif careful:
                alike(x, width, r0, r1, c0, c1, m, n, sh, sw, up, left, dh, dw, True, out, index, columns)
            elif m == 2 and n == 2 and sw == 2 and dh == 1 and dw == 1:
                alike(x, width, r0, r1, c0, c1, 2, 2, sh, 2, up, left, 1, 1, False, out, index, columns)
            elif m == 3 and n == 3 and sw == 2 and dh == 1 and dw == 1:
                alike(x, width, r0, r1, c0, c1, 3, 3, sh, 2, up, left, 1, 1, False, out, index, columns)
            elif m == 3 and n == 3 and sw == 1 and dh == 1 and dw == 1:
                alike(x, width, r0, r1, c0, c1, 3, 3, sh, 1, up, left, 1, 1, False, out, index, columns)
            else:
                alike(x, width, r0, r1, c0, c1, m, n, sh, sw, up, left, dh, dw, False, out, index, columns)
            c0 = c1
        r0 = r1


def _taps(x: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, dh: Any, dw: Any, out: Any, index: Any) -> int:
    return int(out.size * kh * kw)


@parallel(work=_taps, grain=GRAIN)
def max_pool(
    x: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, dh: Any, dw: Any, out: Any, index: Any
) -> None:
    for p in prange(x.shape[0]):
        max_plane(x[p], kh, kw, sh, sw, ph, pw, dh, dw, out[p], index[p])


@parallel(work="x", grain=GRAIN)
def adaptive_max_pool(x: Any, rows: Any, columns: Any, out: Any, index: Any) -> None:
    width = x.shape[2]
    for p in prange(x.shape[0]):
        for r in range(rows.shape[0]):
            for c in range(columns.shape[0]):
                best = x[p, rows[r, 0], columns[c, 0]]
                place = rows[r, 0] * width + columns[c, 0]
                for h in range(rows[r, 0], rows[r, 1]):
                    for w in range(columns[c, 0], columns[c, 1]):
                        v = x[p, h, w]
                        if v > best or v != v:
                            best = v
                            place = h * width + w
                out[p, r, c] = best
                index[p, r, c] = place


@parallel(work="out", grain=GRAIN)
def pool_scatter(gy: Any, index: Any, out: Any) -> None:
    planes, height, width = out.shape
    flat = out.reshape(planes, height * width)
    for p in prange(planes):
        flat[p, :] = 0
        for o in range(gy.shape[1]):
            place = index[p, o]
            if place >= 0:
                flat[p, place] += gy[p, o]


@parallel(work="out", grain=GRAIN)
def pool_gather(x: Any, index: Any, out: Any) -> None:
    planes, height, width = x.shape
    flat = x.reshape(planes, height * width)
    for p in prange(planes):
        for o in range(out.shape[1]):
            place = index[p, o]
            out[p, o] = flat[p, place] if place >= 0 else x.dtype.type(0)


@jit()
def mean_plane(x: Any, rows: Any, columns: Any, work: Any, out: Any) -> None:
    for r in range(rows.shape[0]):
        first = x[rows[r, 0]]
        for w in range(work.size):
            work[w] = first[w]
        for h in range(rows[r, 0] + 1, rows[r, 1]):
            row = x[h]
            for w in range(work.size):
                work[w] += row[w]
        for c in range(columns.shape[0]):
            total = work[columns[c, 0]]
            for w in range(columns[c, 0] + 1, columns[c, 1]):
                total += work[w]
            out[r, c] = total / x.dtype.type(rows[r, 2] * columns[c, 2])


@jit()
def spread_plane(gy: Any, rows: Any, columns: Any, work: Any, out: Any) -> None:
    out[:] = 0
    for r in range(rows.shape[0]):
        work[:] = 0
        for c in range(columns.shape[0]):
            v = gy[r, c] / gy.dtype.type(rows[r, 2] * columns[c, 2])
            for w in range(columns[c, 0], columns[c, 1]):
                work[w] += v
        for h in range(rows[r, 0], rows[r, 1]):
            row = out[h]
            for w in range(work.size):
                row[w] += work[w]


@parallel(work="x", grain=GRAIN)
def avg_pool(x: Any, rows: Any, columns: Any, work: Any, out: Any) -> None:
    planes, parts = x.shape[0], work.shape[0]
    for k in prange(parts):
        for p in range(planes * k // parts, planes * (k + 1) // parts):
            mean_plane(x[p], rows, columns, work[k], out[p])


@parallel(work="out", grain=GRAIN)
def avg_pool_backward(gy: Any, rows: Any, columns: Any, work: Any, out: Any) -> None:
    planes, parts = out.shape[0], work.shape[0]
    for k in prange(parts):
        for p in range(planes * k // parts, planes * (k + 1) // parts):
            spread_plane(gy[p], rows, columns, work[k], out[p])


@parallel(work="out", grain=GRAIN)
def take_grid(x: Any, rows: Any, columns: Any, out: Any) -> None:
    for p in prange(out.shape[0]):
        for r in range(rows.size):
            row = x[p, rows[r]]
            for c in range(columns.size):
                out[p, r, c] = row[columns[c]]


@parallel(work="gy", grain=GRAIN)
def add_grid(gy: Any, rows: Any, columns: Any, out: Any) -> None:
    for p in prange(out.shape[0]):
        out[p, :, :] = 0
        for r in range(rows.size):
            for c in range(columns.size):
                out[p, rows[r], columns[c]] += gy[p, r, c]
