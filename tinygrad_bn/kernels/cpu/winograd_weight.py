"""The gradient of a 3×3 convolution's filters by Winograd's F(4×4, 3×3): the adjoint of ``winograd.py``.

    gw[o, c] = Gᵀ [Σ_t (A gy[o, t] Aᵀ) ⊙ (Bᵀ x[c, t] B)] G

over tiles t of 4×4 results. In the transformed domain it is a product for each of 36 points, summed over tiles: v has
the patches with the channels innermost, m the results with the tiles innermost. A chunk of tiles at a time; the product
of a point is one task, so that the order of its sums is the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.matmul import outer_rows
from tinygrad_bn.kernels.cpu.shuffles import load_every, transpose
from tinygrad_bn.kernels.cpu.simd import lanes, load_first, pointer_to, store_first
from tinygrad_bn.kernels.cpu.tiles import REGISTERS
from tinygrad_bn.kernels.cpu.winograd import (
    GRAIN,
    POINTS,
    F,
    K,
    fill_lines,
    segment,
    store_points,
    transform_lines,
)

result_transform = jit(inline=True)(winograd.result_transform)
filter_gradient = jit(inline=True)(winograd.filter_gradient)


@jit()
def fill_result_lines(
    gy: Any, plane: Any, height: Any, width: Any, y0: Any, x0: Any, tiles: Any, lines: Any, at: Any, step: Any
) -> None:
    """Six lines of the vertical transform A gy of ``tiles`` tiles from row y0 and column x0 of a plane, four columns a
    tile."""
    size = lanes(gy)
    row = plane + y0 * width + x0
    for j in range(0, 4 * tiles, size):
        rest = width - x0 - j
        g0 = load_first(gy, row + j, rest)
        g1 = load_first(gy, row + width + j, rest if y0 + 1 < height else 0)
        g2 = load_first(gy, row + 2 * width + j, rest if y0 + 2 < height else 0)
        g3 = load_first(gy, row + 3 * width + j, rest if y0 + 3 < height else 0)
        o0, o1, o2, o3, o4, o5 = result_transform(g0, g1, g2, g3, K)
        to, some = at + j, 4 * tiles - j
        store_first(lines, to, o0, some)
        store_first(lines, to + step, o1, some)
        store_first(lines, to + 2 * step, o2, some)
        store_first(lines, to + 3 * step, o3, some)
        store_first(lines, to + 4 * step, o4, some)
        store_first(lines, to + 5 * step, o5, some)


@jit()
def transform_result_lines(lines: Any, at: Any, step: Any, registers: Any, m: Any, to: Any, point: Any) -> None:
    """The horizontal transform: m[q, o] for all 36 points, ``point`` apart."""
    size = lanes(m)
    for g in range(registers):
        for i in range(6):
            j = at + i * step + 4 * size * g
            g0, g1 = load_every(lines, j, 0, 4), load_every(lines, j, 1, 4)
            g2, g3 = load_every(lines, j, 2, 4), load_every(lines, j, 3, 4)
            store_points(m, to + 6 * i * point + g * size, point, result_transform(g0, g1, g2, g3, K))


@parallel(work="x", grain=GRAIN)
def winograd_patches(x: Any, first: Any, top: Any, left: Any, down: Any, across: Any, work: Any, v: Any) -> None:
    samples, channels, height, width = x.shape
    _, tiles, padded = v.shape
    size = lanes(x)
    block = REGISTERS * size
    point = size * block
    end = samples * down * across
    step = 4 * block + 2 * size
    fx, fv = x.reshape(-1), v.reshape(-1)
    for g in prange(padded // size):
        own = work[g]
        lines = POINTS * point + size
        for t0 in range(first, first + tiles, block):
            last = min(end, t0 + block)
            own[: lines + 12 * step] = 0  # tiles beyond the last one, and channels, count for nothing
            for c in range(min(size, channels - g * size)):
                t = last
                while t > t0:
                    start = max(t0, (t - 1) // across * across)
                    n, ty, tx, k = segment(start, t, down, across)
                    plane = (n * channels + g * size + c) * height * width
                    y0, x0 = 4 * ty - top, 4 * tx - left
                    fill_lines(fx, plane, height, width, y0, x0, k, own, lines + 4 * (start - t0), step)
                    t = start
                transform_lines(pointer_to(own), lines, step, REGISTERS, pointer_to(own), c * block, point)
            for q in range(POINTS):
                for r in range(REGISTERS):
                    to = (q * tiles + t0 - first + r * size) * padded + g * size
                    transpose(pointer_to(own), q * point + r * size, block, pointer_to(fv), to, padded)


@parallel(work="gy", grain=GRAIN)
def winograd_results(gy: Any, first: Any, work: Any, m: Any) -> None:
    samples, outputs, rows, columns = gy.shape
    down, across = -(-rows // 4), -(-columns // 4)
    tiles = m.shape[2]
    size = lanes(gy)
    block = REGISTERS * size
    end = samples * down * across
    fgy, fm = gy.reshape(-1), m.reshape(-1)
    for o in prange(outputs):
        own = work[o]
        for t0 in range(first, first + tiles, block):
            last = min(end, t0 + block)
            own[: 24 * block] = 0
            t = t0
            while t < last:
                n, ty, tx, k = segment(t, last, down, across)
                plane = (n * outputs + o) * rows * columns
                fill_result_lines(fgy, plane, rows, columns, 4 * ty, 4 * tx, k, own, 4 * (t - t0), 4 * block)
                t += k
            to = o * tiles + t0 - first
            transform_result_lines(pointer_to(own), 0, 4 * block, REGISTERS, pointer_to(fm), to, outputs * tiles)


@parallel(work="v", grain=GRAIN)
def winograd_accumulate(m: Any, v: Any, added: Any, u: Any) -> None:
    _, outputs, tiles = m.shape
    padded = v.shape[2]
    fm, fv, fu = m.reshape(-1), v.reshape(-1), u.reshape(-1)
    for q in prange(POINTS):
        outer_rows(
            pointer_to(fm), q * outputs * tiles, tiles, 1, pointer_to(fv), q * tiles * padded,
            pointer_to(fu), q * outputs * padded, outputs, padded, tiles, added,
        )  # fmt: skip


@jit(inline=True)
def column_gradient(u: Any, at: Any, down: Any, across: Any, j: Any) -> Any:
    """Gᵀ of column j of the points of one filter."""
    p = at + j * across
    return filter_gradient(u[p], u[p + down], u[p + 2 * down], u[p + 3 * down], u[p + 4 * down], u[p + 5 * down], F)


@parallel(work="u", grain=GRAIN)
def winograd_filter_gradient(u: Any, gw: Any) -> None:
    outputs, inputs = gw.shape[:2]
    padded = u.shape[2]
    step = outputs * padded
    fu, fgw = u.reshape(-1), gw.reshape(-1)
    for o in prange(outputs):
        for c in range(inputs):
            at = o * padded + c
            a0, a1, a2 = column_gradient(fu, at, 6 * step, step, 0)
            b0, b1, b2 = column_gradient(fu, at, 6 * step, step, 1)
            c0, c1, c2 = column_gradient(fu, at, 6 * step, step, 2)
            d0, d1, d2 = column_gradient(fu, at, 6 * step, step, 3)
            e0, e1, e2 = column_gradient(fu, at, 6 * step, step, 4)
            f0, f1, f2 = column_gradient(fu, at, 6 * step, step, 5)
            to = 9 * (o * inputs + c)
            fgw[to], fgw[to + 1], fgw[to + 2] = filter_gradient(a0, b0, c0, d0, e0, f0, F)
            fgw[to + 3], fgw[to + 4], fgw[to + 5] = filter_gradient(a1, b1, c1, d1, e1, f1, F)
            fgw[to + 6], fgw[to + 7], fgw[to + 8] = filter_gradient(a2, b2, c2, d2, e2, f2, F)
