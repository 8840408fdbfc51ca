"""The gradient of a 3×3 convolution's filters by Winograd's F(4×4, 3×3): the adjoint of ``winograd.py``.

    gw[o, c] = Gᵀ [Σ_t (A gy[o, t] Aᵀ) ⊙ (Bᵀ x[c, t] B)] G

over tiles t of 4×4 results. In the transformed domain it is a product for each of 36 points, summed over tiles, which
lie innermost in both factors. A chunk of tiles at a time; the product of a point is one task, so that the order of its
sums is the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.matmul import dot_columns
from tinygrad_bn.kernels.cpu.shuffles import load_every
from tinygrad_bn.kernels.cpu.simd import lanes, load_first, pointer_to
from tinygrad_bn.kernels.cpu.tiles import REGISTERS
from tinygrad_bn.kernels.cpu.winograd import (
    GRAIN,
    POINTS,
    F,
    K,
    fill_block,
    put_six,
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
    for j in range(0, min(4 * tiles, width - x0), size):  # beyond the right edge the lines hold zeros already
        rest = width - x0 - j
        g0 = load_first(gy, row + j, rest)
        g1 = load_first(gy, row + width + j, rest if y0 + 1 < height else 0)
        g2 = load_first(gy, row + 2 * width + j, rest if y0 + 2 < height else 0)
        g3 = load_first(gy, row + 3 * width + j, rest if y0 + 3 < height else 0)
        o0, o1, o2, o3, o4, o5 = result_transform(g0, g1, g2, g3, K)
        put_six(lines, at + j, step, o0, o1, o2, o3, o4, o5, 4 * tiles - j)


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
    _, rows, tiles = v.shape
    size = lanes(x)
    block = REGISTERS * size
    end = samples * down * across
    step = 4 * block + 2 * size
    fx, fv = x.reshape(-1), v.reshape(-1)
    for c in prange(rows):
        if c >= channels:
            v[:, c] = 0
            continue
        own = work[c]
        for t0 in range(first, first + tiles, block):
            last = min(end, t0 + block)
            if last < t0 + block:
                own[: size + 12 * step] = 0  # tiles beyond the last one count for nothing
            if last > t0:
                fill_block(
                    pointer_to(fx), channels, c, height, width, t0, last, down, across, top, left,
                    pointer_to(own), size, step,
                )  # fmt: skip
            to = c * tiles + t0 - first
            transform_lines(pointer_to(own), size, step, REGISTERS, pointer_to(fv), to, rows * tiles)


@parallel(work="gy", grain=GRAIN)
def winograd_results(gy: Any, first: Any, work: Any, m: Any) -> None:
    samples, outputs, rows, columns = gy.shape
    down, across = -(-rows // 4), -(-columns // 4)
    _, held, tiles = m.shape
    size = lanes(gy)
    block = REGISTERS * size
    end = samples * down * across
    fgy, fm = gy.reshape(-1), m.reshape(-1)
    for o in prange(held):
        if o >= outputs:
            m[:, o] = 0
            continue
        own = work[o]
        for t0 in range(first, first + tiles, block):
            last = min(end, t0 + block)
            own[: 24 * block] = 0
            t = t0
            while t < last:
                n, ty, tx, k = segment(t, last, down, across)
                plane = (n * outputs + o) * rows * columns
                fill_result_lines(
                    pointer_to(fgy), plane, rows, columns, 4 * ty, 4 * tx, k, pointer_to(own), 4 * (t - t0), 4 * block
                )
                t += k
            to = o * tiles + t0 - first
            transform_result_lines(pointer_to(own), 0, 4 * block, REGISTERS, pointer_to(fm), to, held * tiles)


@parallel(work="v", grain=GRAIN)
def winograd_accumulate(m: Any, v: Any, added: Any, term: Any, u: Any) -> None:
    _, outputs, inputs = u.shape
    tiles = m.shape[2]
    fm, fv, ft, fu = m.reshape(-1), v.reshape(-1), term.reshape(-1), u.reshape(-1)
    pair = outputs * inputs
    for q in prange(POINTS):
        dot_columns(
            pointer_to(fm), q * m.shape[1] * tiles, pointer_to(fv), q * v.shape[1] * tiles, pointer_to(fm), 0,
            pointer_to(ft), q * pair, outputs, inputs, tiles, 0, inputs,
        )  # fmt: skip
        part, into = ft[q * pair : (q + 1) * pair], fu[q * pair : (q + 1) * pair]
        if added:
            for i in range(pair):
                into[i] += part[i]
        else:
            for i in range(pair):
                into[i] = part[i]


@jit(inline=True)
def column_gradient(u: Any, at: Any, down: Any, across: Any, j: Any) -> Any:
    """Gᵀ of column j of the points of one filter."""
    p = at + j * across
    return filter_gradient(u[p], u[p + down], u[p + 2 * down], u[p + 3 * down], u[p + 4 * down], u[p + 5 * down], F)


@parallel(work="u", grain=GRAIN)
def winograd_filter_gradient(u: Any, gw: Any) -> None:
    outputs, inputs = gw.shape[:2]
    step = outputs * inputs
    fu, fgw = u.reshape(-1), gw.reshape(-1)
    for o in prange(outputs):
        for c in range(inputs):
            at = o * inputs + c
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
