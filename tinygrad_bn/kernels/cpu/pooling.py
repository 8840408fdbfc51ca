"""Planes (P, H, W): pooled over windows of tables, and read at other rows and columns.

    avg_pool     y[p, r, c] = Σ x[p, a ≤ h < b, u ≤ w < v] / (m n),  (a, b, m) = rows[r], (u, v, n) = columns[c]
    take_grid    y[p, r, c] = x[p, rows[r], columns[c]]

An average adds up rows first, which vectorises, then stretches of that row; its gradient goes the same way back. Planes
are the shares of the pool; in each the order of additions is fixed.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel

GRAIN = 1 << 15


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
