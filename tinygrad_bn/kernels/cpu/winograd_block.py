"""What the Winograd kernels do to a block of tiles: transforms in and out, and the product of one point.

A register holds as many tiles as it has lanes; the tiles of a block are neighbours in a row of tiles, across rows and
samples. A row of tiles, or what of it lies in the block, is transformed along the columns of the picture first, a
register of a row's elements at a time, into lines that lie side by side with four elements a tile: six lines from a
tile's first column on (d0 … d3) and, of inputs, six from its fifth on (d4, d5, which are the next tile's first two).
The second transform reads every fourth element. Elements in the padding are never written: the lines begin as zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.cpu._jit import generated, jit
from tinygrad_bn.kernels.cpu.bn_activation import RELU
from tinygrad_bn.kernels.cpu.shuffles import load_every, store_every4
from tinygrad_bn.kernels.cpu.simd import (
    first,
    fma,
    lanes,
    load,
    load_first,
    prefetch,
    splat,
    store,
    store_between,
    store_first,
    total,
    where_positive,
    zeros,
)
from tinygrad_bn.kernels.cpu.tiles import HEAD, outer_tile
from tinygrad_bn.kernels.cpu.vector import WIDTH
from tinygrad_bn.kernels.winograd import HEIGHT

input_transform = jit(inline=True)(winograd.input_transform)
output_transform = jit(inline=True)(winograd.output_transform)
result_transform = jit(inline=True)(winograd.result_transform)
K = winograd.constants(np.float32)
TALL = HEIGHT if WIDTH == 64 else HEIGHT // 2  # rows of a micro-kernel: with three registers each, as many fit

_tiles = generated(
    "winograd_tiles", HEAD + "\n\n" + "\n\n".join(outer_tile(f"rows_{n}", TALL, n, adds=True) for n in (1, 2, 3))
)
rows_1, rows_2, rows_3 = _tiles.rows_1, _tiles.rows_2, _tiles.rows_3


@jit(inline=True)
def put_six(a: Any, at: Any, step: Any, o: Any) -> None:
    """Six registers, ``step`` apart."""
    store(a, at, o[0])
    store(a, at + step, o[1])
    store(a, at + 2 * step, o[2])
    store(a, at + 3 * step, o[3])
    store(a, at + 4 * step, o[4])
    store(a, at + 5 * step, o[5])


@jit(inline=True)
def put_part(a: Any, at: Any, step: Any, o: Any, m: Any, n: Any) -> None:
    """Lanes m … n - 1 of six registers, ``step`` apart."""
    store_between(a, at, o[0], m, n)
    store_between(a, at + step, o[1], m, n)
    store_between(a, at + 2 * step, o[2], m, n)
    store_between(a, at + 3 * step, o[3], m, n)
    store_between(a, at + 4 * step, o[4], m, n)
    store_between(a, at + 5 * step, o[5], m, n)


@jit(inline=True)
def place_of(t: Any, down: Any, across: Any) -> Any:
    """Sample, row and column of a tile."""
    n = t // (down * across)
    inside = t - n * down * across
    ty = inside // across
    return n, ty, inside - ty * across


@jit(inline=True)
def normalised(v: Any, h: Any, e: Any, gain: Any, beta: Any, act: Any) -> Any:
    """act(((v - h) - e) gain + beta)"""
    z = fma((v - h) - e, gain, beta)
    return where_positive(z, z) if act == RELU else z


@jit(inline=True)
def input_row(
    x: Any, plane: Any, height: Any, width: Any, y0: Any, x0: Any, norm: Any, tiles: Any, lines: Any, at: Any, step: Any
) -> None:
    """The lines of ``tiles`` tiles whose patches begin in row y0 and column x0 of a plane, from ``at`` on."""
    size = lanes(x)
    columns = 4 * tiles
    stop = min(columns + 2, width - x0)
    row = plane + y0 * width + x0
    inside = y0 >= 0 and y0 + 6 <= height
    ahead = height * width  # the same rows of the next channel, or sample
    normal, hi, lo, g, b, act = norm
    h, e, gain, beta = splat(hi), splat(lo), splat(g), splat(b)
    j = max(0, -x0)
    while j < stop:
        rest = width - x0 - j
        i = row + j
        for k in range(1, 5):
            prefetch(x, i + k * width + ahead)
        if inside and rest >= size:
            d0, d1, d2 = load(x, i), load(x, i + width), load(x, i + 2 * width)
            d3, d4, d5 = load(x, i + 3 * width), load(x, i + 4 * width), load(x, i + 5 * width)
            if normal:
                d0, d1 = normalised(d0, h, e, gain, beta, act), normalised(d1, h, e, gain, beta, act)
                d2, d3 = normalised(d2, h, e, gain, beta, act), normalised(d3, h, e, gain, beta, act)
                d4, d5 = normalised(d4, h, e, gain, beta, act), normalised(d5, h, e, gain, beta, act)
        else:
            n0 = rest if 0 <= y0 < height else 0
            n1 = rest if 0 <= y0 + 1 < height else 0
            n2 = rest if 0 <= y0 + 2 < height else 0
            n3 = rest if 0 <= y0 + 3 < height else 0
            n4 = rest if 0 <= y0 + 4 < height else 0
            n5 = rest if 0 <= y0 + 5 < height else 0
            d0, d1, d2 = load_first(x, i, n0), load_first(x, i + width, n1), load_first(x, i + 2 * width, n2)
            d3, d4 = load_first(x, i + 3 * width, n3), load_first(x, i + 4 * width, n4)
            d5 = load_first(x, i + 5 * width, n5)
            if normal:  # the padding is of what is normalised: zeros stay
                d0 = first(normalised(d0, h, e, gain, beta, act), n0)
                d1 = first(normalised(d1, h, e, gain, beta, act), n1)
                d2 = first(normalised(d2, h, e, gain, beta, act), n2)
                d3 = first(normalised(d3, h, e, gain, beta, act), n3)
                d4 = first(normalised(d4, h, e, gain, beta, act), n4)
                d5 = first(normalised(d5, h, e, gain, beta, act), n5)
        o = input_transform(d0, d1, d2, d3, d4, d5, K)
        if columns - j >= size:
            put_six(lines, at + j, step, o)
        else:
            put_part(lines, at + j, step, o, 0, columns - j)
        if j >= 4 and columns + 2 - j >= size:
            put_six(lines, at + 6 * step + j - 4, step, o)
        else:
            put_part(lines, at + 6 * step + j - 4, step, o, 4 - j, columns + 2 - j)
        j += size


@jit()
def input_lines(
    x: Any, plane: Any, sample: Any, height: Any, width: Any, first_tile: Any, last: Any, down: Any, across: Any,
    top: Any, left: Any, norm: Any, lines: Any, at: Any, step: Any,
) -> None:  # fmt: skip
    """The lines of a run of tiles of a channel whose first plane is at ``plane``, planes ``sample`` apart; ``norm`` as
    of ``norm_of``."""
    n, ty, tx = place_of(first_tile, down, across)
    plane += n * sample
    t = first_tile
    while t < last:
        tiles = min(across - tx, last - t)
        to = at + 4 * (t - first_tile)
        input_row(x, plane, height, width, 4 * ty - top, 4 * tx - left, norm, tiles, lines, to, step)
        t += tiles
        tx = 0
        ty += 1
        if ty == down:
            ty = 0
            plane += sample


@jit(inline=True)
def norm_of(statistics: Any, weight: Any, shift: Any, act: Any, c: Any) -> Any:
    """What ``normalised`` takes for channel c, behind whether there is anything to do."""
    zero = statistics.dtype.type(0)
    if not statistics.size:
        return False, zero, zero, zero, zero, act
    gain = statistics[3, c] * (weight[c] if weight.size else statistics.dtype.type(1))
    return True, statistics[0, c], statistics[1, c], gain, shift[c] if shift.size else zero, act


@jit()
def input_points(lines: Any, at: Any, step: Any, tiles: Any, v: Any, to: Any, point: Any) -> None:
    """The second transform of a block of inputs: 36 points of each tile, ``point`` apart."""
    size = lanes(v)
    for g in range(0, tiles, size):
        for i in range(6):
            j = at + i * step + 4 * g
            h = j + 6 * step
            d0, d1 = load_every(lines, j, 0, 4), load_every(lines, j, 1, 4)
            d2, d3 = load_every(lines, j, 2, 4), load_every(lines, j, 3, 4)
            d4, d5 = load_every(lines, h, 0, 4), load_every(lines, h, 1, 4)
            put_six(v, to + 6 * i * point + g, point, input_transform(d0, d1, d2, d3, d4, d5, K))


@jit(inline=True)
def output_column(m: Any, p: Any, point: Any) -> Any:
    """The transform of one column of points."""
    return output_transform(
        load(m, p), load(m, p + 6 * point), load(m, p + 12 * point), load(m, p + 18 * point), load(m, p + 24 * point),
        load(m, p + 30 * point), K,
    )  # fmt: skip


@jit()
def output_lines(m: Any, at: Any, point: Any, tiles: Any, lines: Any, to: Any, step: Any) -> None:
    """Four rows of results of one output, four columns a tile, side by side."""
    size = lanes(m)
    for g in range(0, tiles, size):
        p = at + g
        a, b, c = output_column(m, p, point), output_column(m, p + point, point), output_column(m, p + 2 * point, point)
        d, e = output_column(m, p + 3 * point, point), output_column(m, p + 4 * point, point)
        f = output_column(m, p + 5 * point, point)
        j = to + 4 * g
        y0, y1, y2, y3 = output_transform(a[0], b[0], c[0], d[0], e[0], f[0], K)
        store_every4(lines, j, y0, y1, y2, y3)
        y0, y1, y2, y3 = output_transform(a[1], b[1], c[1], d[1], e[1], f[1], K)
        store_every4(lines, j + step, y0, y1, y2, y3)
        y0, y1, y2, y3 = output_transform(a[2], b[2], c[2], d[2], e[2], f[2], K)
        store_every4(lines, j + 2 * step, y0, y1, y2, y3)
        y0, y1, y2, y3 = output_transform(a[3], b[3], c[3], d[3], e[3], f[3], K)
        store_every4(lines, j + 3 * step, y0, y1, y2, y3)


@jit()
def put_lines(
    lines: Any, at: Any, step: Any, first_tile: Any, last: Any, down: Any, across: Any, shift: Any, centre: Any,
    y: Any, plane: Any, sample: Any, rows: Any, columns: Any,
) -> Any:  # fmt: skip
    """The four rows of results, plus ``shift``, to where the tiles of one output lie; what they add up to.

    Returned are the number of results, and the sums of d and d² of d = result - centre.
    """
    size = lanes(lines)
    more, middle = splat(shift), splat(centre)
    s, q = zeros(lines), zeros(lines)
    found = 0
    n, ty, tx = place_of(first_tile, down, across)
    plane += n * sample
    t = first_tile
    while t < last:
        tiles = min(across - tx, last - t)
        to = plane + 4 * ty * columns + 4 * tx
        count = min(4 * tiles, columns - 4 * tx)
        whole = count - count % size
        high = min(4, rows - 4 * ty)
        found += high * count
        for i in range(high):
            line = at + i * step + 4 * (t - first_tile)
            for j in range(0, whole, size):
                prefetch(y, to + j + rows * columns)
                v = load(lines, line + j) + more
                store(y, to + j, v)
                d = v - middle
                s = s + d
                q = fma(d, d, q)
            if whole < count:
                v = load(lines, line + whole) + more
                store_first(y, to + whole, v, count - whole)
                d = first(v - middle, count - whole)
                s = s + d
                q = fma(d, d, q)
            to += columns
        t += tiles
        tx = 0
        ty += 1
        if ty == down:
            ty = 0
            plane += sample
    return found, total(s), total(q)


@jit()
def multiply(
    a: Any, pa: Any, row_step: Any, k_step: Any, panel_step: Any, panels: Any, b: Any, pb: Any, n: Any,
    c: Any, pc: Any, depth: Any, more: Any,
) -> None:  # fmt: skip
    """C[i, j] = Σ_k A[i, k] B[k, j], added to what is there if ``more``: HEIGHT rows a panel, n whole registers."""
    width = lanes(b)
    left = n // width
    while left > 0:
        registers = 2 if left == 4 else min(left, 3)  # four are two and two: one alone would wait for its own sums
        for p in range(panels):
            for i in range(0, HEIGHT, TALL):
                x = pa + p * panel_step + i * row_step
                to = pc + (p * HEIGHT + i) * n
                if registers == 3:
                    rows_3(a, x, row_step, k_step, b, pb, n, c, to, n, depth, 0, more)
                elif registers == 2:
                    rows_2(a, x, row_step, k_step, b, pb, n, c, to, n, depth, 0, more)
                else:
                    rows_1(a, x, row_step, k_step, b, pb, n, c, to, n, depth, 0, more)
        pb += registers * width
        pc += registers * width
        left -= registers
