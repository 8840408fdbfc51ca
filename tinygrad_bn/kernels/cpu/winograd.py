"""3×3 convolution of stride 1 by Winograd's F(4×4, 3×3); the transforms are in ``kernels/winograd.py``.

    y[n, o] = Σ_c w[o, c] ⋆ x[n, c],   in the transformed domain  M[q, o, t] = Σ_c U[q, o, c] V[q, c, t]

for 36 points q of a tile and tiles t of 4×4 outputs. A register holds as many tiles as it has lanes. A block of BLOCK
registers of tiles, neighbours in a row of tiles, across rows and samples, is transformed, multiplied and transformed
back in the second-level cache: V of all channels, M of a group of outputs. Backward with respect to the input is the
same with the filters turned and transposed.

Lines: six rows of the input, their vertical transform done, lie side by side with four columns a tile, twice: from a
tile's first column on (d0 … d3), and from its fifth on (d4, d5, which are the next tile's first two).

float32 only: sums of 64 channels are off by about 2e-6 of the largest result, where the direct sum is off by 4e-7.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.matmul import outer_rows
from tinygrad_bn.kernels.cpu.shuffles import load_every, store_every4
from tinygrad_bn.kernels.cpu.simd import lanes, load, load_first, pointer_to, splat, store, store_first
from tinygrad_bn.kernels.cpu.tiles import REGISTERS, ROWS

input_transform = jit(inline=True)(winograd.input_transform)
output_transform = jit(inline=True)(winograd.output_transform)
filter_transform = jit(inline=True)(winograd.filter_transform)
POINTS = winograd.POINTS
GROUP = 4 * ROWS  # outputs whose M is held at once
GRAIN = 1 << 15
F = tuple(np.float32(v) for v in winograd.FILTER)
K = winograd.constants(np.float32)


@jit(inline=True)
def store_points(u: Any, at: Any, step: Any, e: Any) -> None:
    """Six points, ``step`` apart."""
    store(u, at, e[0])
    store(u, at + step, e[1])
    store(u, at + 2 * step, e[2])
    store(u, at + 3 * step, e[3])
    store(u, at + 4 * step, e[4])
    store(u, at + 5 * step, e[5])


@jit()
def filter_points(w: Any, at: Any, turned: Any, u: Any, to: Any, step: Any) -> None:
    """G w Gᵀ of as many filters as a register has lanes, those from w[at] on."""
    w0, w1, w2 = load_every(w, at, 0, 9), load_every(w, at, 1, 9), load_every(w, at, 2, 9)
    w3, w4, w5 = load_every(w, at, 3, 9), load_every(w, at, 4, 9), load_every(w, at, 5, 9)
    w6, w7, w8 = load_every(w, at, 6, 9), load_every(w, at, 7, 9), load_every(w, at, 8, 9)
    if turned:
        w0, w1, w2, w3, w5, w6, w7, w8 = w8, w7, w6, w5, w3, w2, w1, w0
    a, b, c = filter_transform(w0, w3, w6, F), filter_transform(w1, w4, w7, F), filter_transform(w2, w5, w8, F)
    store_points(u, to, step, filter_transform(a[0], b[0], c[0], F))
    store_points(u, to + 6 * step, step, filter_transform(a[1], b[1], c[1], F))
    store_points(u, to + 12 * step, step, filter_transform(a[2], b[2], c[2], F))
    store_points(u, to + 18 * step, step, filter_transform(a[3], b[3], c[3], F))
    store_points(u, to + 24 * step, step, filter_transform(a[4], b[4], c[4], F))
    store_points(u, to + 30 * step, step, filter_transform(a[5], b[5], c[5], F))


@jit()
def filter_points_of_one(w: Any, at: Any, turned: Any, u: Any, to: Any, step: Any) -> None:
    """The same of a single filter."""
    first, sign = (at + 8, -1) if turned else (at, 1)
    a = filter_transform(w[first], w[first + 3 * sign], w[first + 6 * sign], F)
    b = filter_transform(w[first + sign], w[first + 4 * sign], w[first + 7 * sign], F)
    c = filter_transform(w[first + 2 * sign], w[first + 5 * sign], w[first + 8 * sign], F)
    for i in range(6):
        e = filter_transform(a[i], b[i], c[i], F)
        for j in range(6):
            u[to + (6 * i + j) * step] = e[j]


@parallel(work="u", grain=GRAIN)
def winograd_filters(w: Any, turned: Any, u: Any) -> None:
    filters = u.shape[1] * u.shape[2]
    size = lanes(w)
    fw, fu = w.reshape(-1), u.reshape(-1)
    for g in prange(-(-filters // size)):
        first = g * size
        if first + size <= filters:
            filter_points(fw, 9 * first, turned, fu, first, filters)
        else:
            for i in range(first, filters):
                filter_points_of_one(fw, 9 * i, turned, fu, i, filters)


@jit()
def segment(t: Any, last: Any, down: Any, across: Any) -> Any:
    """Of the tiles from t on: sample, row of tiles, first tile in it, and how many lie in it before ``last``."""
    n = t // (down * across)
    inside = t - n * down * across
    ty = inside // across
    tx = inside - ty * across
    return n, ty, tx, min(across - tx, last - t)


@jit(inline=True)
def put_six(lines: Any, at: Any, step: Any, o0: Any, o1: Any, o2: Any, o3: Any, o4: Any, o5: Any, n: Any) -> None:
    """The first n lanes of six registers, ``step`` apart."""
    if n >= lanes(lines):
        store(lines, at, o0)
        store(lines, at + step, o1)
        store(lines, at + 2 * step, o2)
        store(lines, at + 3 * step, o3)
        store(lines, at + 4 * step, o4)
        store(lines, at + 5 * step, o5)
    else:
        store_first(lines, at, o0, n)
        store_first(lines, at + step, o1, n)
        store_first(lines, at + 2 * step, o2, n)
        store_first(lines, at + 3 * step, o3, n)
        store_first(lines, at + 4 * step, o4, n)
        store_first(lines, at + 5 * step, o5, n)


@jit(inline=True)
def clear_column(lines: Any, at: Any, step: Any, j: Any, columns: Any) -> None:
    """Zeros in column j of both sets of lines: it lies in the padding."""
    for k in range(6):
        if j < columns - 2:
            lines[at + k * step + j] = 0
        lines[at + (6 + k) * step + j - 4] = 0


@jit()
def fill_lines(
    x: Any, plane: Any, height: Any, width: Any, y0: Any, x0: Any, tiles: Any, lines: Any, at: Any, step: Any
) -> None:
    """The lines of ``tiles`` tiles whose patch begins in row y0 and column x0 of a plane, stored from ``at`` on."""
    size = lanes(x)
    left = max(0, -x0)
    columns = 4 * tiles + 2
    stop = min(columns, width - x0)
    row = plane + y0 * width + x0
    inside = y0 >= 0 and y0 + 6 <= height
    for j in range(min(left, columns)):
        clear_column(lines, at, step, j, columns)
    j = left
    while j < stop:
        rest = width - x0 - j
        i = row + j
        if inside and rest >= size:
            d0, d1, d2 = load(x, i), load(x, i + width), load(x, i + 2 * width)
            d3, d4, d5 = load(x, i + 3 * width), load(x, i + 4 * width), load(x, i + 5 * width)
        else:
            d0 = load_first(x, i, rest if 0 <= y0 < height else 0)
            d1 = load_first(x, i + width, rest if 0 <= y0 + 1 < height else 0)
            d2 = load_first(x, i + 2 * width, rest if 0 <= y0 + 2 < height else 0)
            d3 = load_first(x, i + 3 * width, rest if 0 <= y0 + 3 < height else 0)
            d4 = load_first(x, i + 4 * width, rest if 0 <= y0 + 4 < height else 0)
            d5 = load_first(x, i + 5 * width, rest if 0 <= y0 + 5 < height else 0)
        o0, o1, o2, o3, o4, o5 = input_transform(d0, d1, d2, d3, d4, d5, K)
        put_six(lines, at + j, step, o0, o1, o2, o3, o4, o5, columns - 2 - j)
        put_six(lines, at + 6 * step + j - 4, step, o0, o1, o2, o3, o4, o5, columns - j)
        j += size
    for beyond in range(j, columns):
        clear_column(lines, at, step, beyond, columns)


@jit()
def fill_block(
    x: Any, channels: Any, c: Any, height: Any, width: Any, first: Any, last: Any, down: Any, across: Any,
    top: Any, left: Any, lines: Any, at: Any, step: Any,
) -> None:  # fmt: skip
    """The lines of tiles first … last of channel c, a row of tiles after the other.

    Backwards: the second lines of a row of tiles reach four columns before its beginning.
    """
    t = last
    n = (t - 1) // (down * across)
    inside = t - 1 - n * down * across
    ty = inside // across
    begin = t - 1 - (inside - ty * across)  # the first tile of this row
    while t > first:
        start = max(first, begin)
        y0, x0 = 4 * ty - top, 4 * (start - begin) - left
        plane = (n * channels + c) * height * width
        fill_lines(x, plane, height, width, y0, x0, t - start, lines, at + 4 * (start - first), step)
        t = start
        begin -= across
        ty -= 1
        if ty < 0:
            ty = down - 1
            n -= 1


@jit()
def transform_lines(lines: Any, at: Any, step: Any, registers: Any, v: Any, to: Any, point: Any) -> None:
    """The horizontal transform of the lines of one channel: v[q, c] for all 36 points, ``point`` apart."""
    size = lanes(v)
    for g in range(registers - 1, -1, -1):  # what was written last is read last: it is still on its way to the cache
        for i in range(6):
            j = at + i * step + 4 * size * g
            h = j + 6 * step
            o0, o1, o2, o3, o4, o5 = input_transform(
                load_every(lines, j, 0, 4), load_every(lines, j, 1, 4), load_every(lines, j, 2, 4),
                load_every(lines, j, 3, 4), load_every(lines, h, 0, 4), load_every(lines, h, 1, 4), K,
            )  # fmt: skip
            p = to + 6 * i * point + g * size
            store(v, p, o0)
            store(v, p + point, o1)
            store(v, p + 2 * point, o2)
            store(v, p + 3 * point, o3)
            store(v, p + 4 * point, o4)
            store(v, p + 5 * point, o5)


@jit(inline=True)
def output_column(m: Any, p: Any, point: Any) -> Any:
    """The vertical transform of one column of points."""
    return output_transform(
        load(m, p), load(m, p + 6 * point), load(m, p + 12 * point), load(m, p + 18 * point), load(m, p + 24 * point),
        load(m, p + 30 * point), K,
    )  # fmt: skip


@jit()
def output_lines(m: Any, at: Any, point: Any, registers: Any, lines: Any, to: Any, step: Any) -> None:
    """Four rows of results of one output, four columns a tile, side by side."""
    size = lanes(m)
    for g in range(registers):
        p = at + g * size
        a, b, c = output_column(m, p, point), output_column(m, p + point, point), output_column(m, p + 2 * point, point)
        d, e = output_column(m, p + 3 * point, point), output_column(m, p + 4 * point, point)
        f = output_column(m, p + 5 * point, point)
        j = to + 4 * size * g
        y0, y1, y2, y3 = output_transform(a[0], b[0], c[0], d[0], e[0], f[0], K)
        store_every4(lines, j, y0, y1, y2, y3)
        y0, y1, y2, y3 = output_transform(a[1], b[1], c[1], d[1], e[1], f[1], K)
        store_every4(lines, j + step, y0, y1, y2, y3)
        y0, y1, y2, y3 = output_transform(a[2], b[2], c[2], d[2], e[2], f[2], K)
        store_every4(lines, j + 2 * step, y0, y1, y2, y3)
        y0, y1, y2, y3 = output_transform(a[3], b[3], c[3], d[3], e[3], f[3], K)
        store_every4(lines, j + 3 * step, y0, y1, y2, y3)


@jit()
def copy_line(lines: Any, at: Any, n: Any, shift: Any, y: Any, to: Any) -> None:
    """y[to + j] = lines[at + j] + shift for j < n."""
    size = lanes(lines)
    more = splat(shift)
    for j in range(0, n, size):
        store_first(y, to + j, load(lines, at + j) + more, n - j)


@parallel(work="y", grain=GRAIN)
def winograd_convolution(x: Any, u: Any, turned: Any, bias: Any, top: Any, left: Any, work: Any, y: Any) -> None:
    samples, inputs, height, width = x.shape
    _, outputs, rows, columns = y.shape
    down, across = -(-rows // 4), -(-columns // 4)
    size = lanes(x)
    tiles = REGISTERS * size
    count = samples * down * across
    blocks = -(-count // tiles)
    row_step, depth_step = (1, outputs) if turned else (inputs, 1)
    shares = work.shape[0]
    group = min(GROUP, outputs)
    step = 4 * tiles + 2 * size
    # a cache line more than a power of two: or the points of a tile would meet in a few sets of the cache
    v_point, m_point = inputs * tiles + size, group * tiles + size
    fx, fu, fy = x.reshape(-1), u.reshape(-1), y.reshape(-1)
    for share in prange(shares):
        own = work[share]
        m = POINTS * v_point
        lines = m + POINTS * m_point + size
        for block in range(blocks * share // shares, blocks * (share + 1) // shares):
            first = block * tiles
            last = min(count, first + tiles)
            for c in range(inputs):
                fill_block(
                    pointer_to(fx), inputs, c, height, width, first, last, down, across, top, left,
                    pointer_to(own), lines, step,
                )  # fmt: skip
                transform_lines(pointer_to(own), lines, step, REGISTERS, pointer_to(own), c * tiles, v_point)
            for o0 in range(0, outputs, group):
                o0 = min(o0, outputs - group)
                for q in range(POINTS):
                    outer_rows(
                        pointer_to(fu), q * inputs * outputs + o0 * row_step, row_step, depth_step,
                        pointer_to(own), q * v_point, pointer_to(own), m + q * m_point,
                        group, tiles, inputs,
                    )  # fmt: skip
                for o in range(group):
                    shift = bias[o0 + o] if bias.size else x.dtype.type(0)
                    output_lines(pointer_to(own), m + o * tiles, m_point, REGISTERS, pointer_to(own), lines, step)
                    t = first
                    while t < last:
                        n, ty, tx, k = segment(t, last, down, across)
                        to = ((n * outputs + o0 + o) * rows + 4 * ty) * columns + 4 * tx
                        for i in range(min(4, rows - 4 * ty)):
                            at = lines + i * step + 4 * (t - first)
                            copy_line(
                                pointer_to(own),
                                at,
                                min(4 * k, columns - 4 * tx),
                                shift,
                                pointer_to(fy),
                                to + i * columns,
                            )
                        t += k
