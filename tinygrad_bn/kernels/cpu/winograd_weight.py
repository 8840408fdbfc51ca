"""The gradient of a 3×3 convolution's filters by Winograd's F(4×4, 3×3): the adjoint of ``winograd.py``.

    gw[o, c] = Gᵀ [Σ_t (A gy[o, t] Aᵀ) ⊙ (Bᵀ x[c, t] B)] G

over tiles t of 4×4 results. In the transformed domain it is a product for each of 36 points: U[o, c] = Σ_t M[o, t]
V[t, c], with V transposed so that a register holds channels. Blocks of tiles are added up in a fixed number of parts,
each by one thread, and the parts in their order: the same sums for any number of threads.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.shuffles import transpose
from tinygrad_bn.kernels.cpu.simd import lanes, load, pointer_to, store
from tinygrad_bn.kernels.cpu.winograd import GRAIN, F
from tinygrad_bn.kernels.cpu.winograd_block import (
    input_lines,
    input_points,
    multiply,
    norm_of,
    result_lines,
    result_points,
)
from tinygrad_bn.kernels.winograd import HEIGHT, LANES, POINTS

filter_gradient = jit(inline=True)(winograd.filter_gradient)


@jit()
def turn(v: Any, at: Any, point: Any, tiles: Any, rows: Any, to: Any, turned_point: Any, wide: Any) -> None:
    """Of a register's channels the first ``rows`` of V, zeros in the others' place, transposed to V[q, t, c]."""
    size = lanes(v)
    for q in range(POINTS):
        p = at + q * point
        for i in range(p + rows * tiles, p + size * tiles):
            v[i] = 0
        for t in range(0, tiles, size):
            transpose(v, p + t, tiles, v, to + q * turned_point + t * wide, wide)


@parallel(work="x", grain=GRAIN)
def winograd_gradient(
    x: Any, statistics: Any, weight: Any, shift: Any, act: Any, gy: Any, top: Any, left: Any,
    tiles: Any, work: Any, u: Any,
) -> None:  # fmt: skip
    samples, inputs, height, width = x.shape
    _, outputs, rows, columns = gy.shape
    down, across = -(-rows // 4), -(-columns // 4)
    size = lanes(x)
    count = samples * down * across
    blocks = -(-count // tiles)
    shares, parts = work.shape[0], u.shape[0]
    panels, wide = -(-outputs // HEIGHT), -(-inputs // LANES) * LANES
    step = 4 * tiles + 2 * LANES
    v_point, t_point, m_point = size * tiles + LANES, wide * tiles + LANES, panels * HEIGHT * tiles + LANES
    area, result_area = height * width, rows * columns
    fx, fgy, fu = x.reshape(-1), gy.reshape(-1), u.reshape(-1)
    for share in prange(shares):
        own = work[share]
        turned = POINTS * v_point
        m = turned + POINTS * t_point
        lines = m + POINTS * m_point + LANES
        own[turned:lines] = 0  # rows and columns that only pad
        for part in range(parts * share // shares, parts * (share + 1) // shares):
            start, stop = blocks * part // parts, blocks * (part + 1) // parts
            u[part, :, (panels * HEIGHT * wide if start < stop else 0) :] = 0
            for block in range(start, stop):
                first = block * tiles
                last = min(count, first + tiles)
                own[lines - LANES : lines + 12 * step] = 0
                for c0 in range(0, inputs, size):
                    few = min(size, inputs - c0)
                    for c in range(few):
                        input_lines(
                            pointer_to(fx), (c0 + c) * area, inputs * area, height, width, first, last, down, across,
                            top, left, norm_of(statistics, weight, shift, act, c0 + c), pointer_to(own), lines, step,
                        )  # fmt: skip
                        input_points(pointer_to(own), lines, step, tiles, pointer_to(own), c * tiles, v_point)
                    turn(pointer_to(own), 0, v_point, tiles, few, turned + c0, t_point, wide)
                own[lines : lines + 6 * step] = 0
                for o in range(outputs):
                    result_lines(
                        pointer_to(fgy), o * result_area, outputs * result_area, rows, columns, first, last,
                        down, across, pointer_to(own), lines, step,
                    )  # fmt: skip
                    result_points(pointer_to(own), lines, step, tiles, pointer_to(own), m + o * tiles, m_point)
                for q in range(POINTS):
                    multiply(
                        pointer_to(own), m + q * m_point, tiles, 1, HEIGHT * tiles, panels,
                        pointer_to(own), turned + q * t_point, wide,
                        pointer_to(fu), (part * POINTS + q) * u.shape[2], tiles, block > start,
                    )  # fmt: skip


@jit(inline=True)
def column_gradient(u: Any, p: Any, step: Any) -> Any:
    """Gᵀ of one column of points."""
    return filter_gradient(
        load(u, p), load(u, p + 6 * step), load(u, p + 12 * step), load(u, p + 18 * step), load(u, p + 24 * step),
        load(u, p + 30 * step), F,
    )  # fmt: skip


@jit()
def taps(u: Any, p: Any, step: Any) -> None:
    """Gᵀ u G of a register of filters, in place: the nine taps where the first nine points were."""
    a, b, c = column_gradient(u, p, step), column_gradient(u, p + step, step), column_gradient(u, p + 2 * step, step)
    d, e = column_gradient(u, p + 3 * step, step), column_gradient(u, p + 4 * step, step)
    f = column_gradient(u, p + 5 * step, step)
    g0, g1, g2 = filter_gradient(a[0], b[0], c[0], d[0], e[0], f[0], F)
    g3, g4, g5 = filter_gradient(a[1], b[1], c[1], d[1], e[1], f[1], F)
    g6, g7, g8 = filter_gradient(a[2], b[2], c[2], d[2], e[2], f[2], F)
    store(u, p, g0)
    store(u, p + step, g1)
    store(u, p + 2 * step, g2)
    store(u, p + 3 * step, g3)
    store(u, p + 4 * step, g4)
    store(u, p + 5 * step, g5)
    store(u, p + 6 * step, g6)
    store(u, p + 7 * step, g7)
    store(u, p + 8 * step, g8)


@jit()
def merge(u: Any, at: Any, n: Any, parts: Any, step: Any) -> None:
    """The parts of one row of one point added to the first, n elements, whole registers."""
    for i in range(at, at + n, lanes(u)):
        total = load(u, i)
        for part in range(1, parts):
            total = total + load(u, i + part * step)
        store(u, i, total)


@jit()
def spread(u: Any, at: Any, step: Any, n: Any, gw: Any, to: Any) -> None:
    """The nine taps of n filters, which lie ``step`` apart, side by side."""
    for c in range(n):
        for i in range(9):
            gw[to + 9 * c + i] = u[at + i * step + c]


@parallel(work="u", grain=GRAIN)
def winograd_filter_gradient(u: Any, gw: Any) -> None:
    outputs, inputs = gw.shape[:2]
    parts, _, step = u.shape
    wide = -(-inputs // LANES) * LANES
    fu, fgw = u.reshape(-1), gw.reshape(-1)
    for o in prange(outputs):
        row = o * wide
        if parts > 1:
            for q in range(POINTS):
                merge(pointer_to(fu), q * step + row, wide, parts, POINTS * step)
        for c in range(0, wide, lanes(u)):
            taps(pointer_to(fu), row + c, step)
        spread(pointer_to(fu), row, step, inputs, pointer_to(fgw), 9 * o * inputs)
