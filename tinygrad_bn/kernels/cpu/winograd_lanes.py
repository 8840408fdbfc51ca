"""Winograd's transforms with channels in the lanes, for the gradient of the filters: see ``winograd_weight.py``.

A unit is a rectangle of a picture's tiles. Its pixels are turned, as many channels at once as a register has lanes, to
a strip that holds a register a pixel. From there on nothing moves between lanes: the first transform goes down the
columns of a row of tiles, into lines of six registers a column (zeros where the picture has ended), the second along
them, to the places from which the products read: V[q, g, t], LANES channels of a group g side by side. Results that
end where their tiles end need no lines.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.shuffles import transpose
from tinygrad_bn.kernels.cpu.simd import lanes, load, load_first, prefetch, splat, store, zeros
from tinygrad_bn.kernels.cpu.winograd_block import K, input_transform, normalised, put_six, result_transform
from tinygrad_bn.kernels.winograd import LANES, ROW, RUN

unit_of = jit(inline=True)(winograd.unit_of)


@jit(inline=True)
def tiles_before(unit: Any, grid: Any) -> Any:
    """The number of tiles of all units before this one."""
    n, ty, tx, rows, _ = unit_of(unit, grid)
    return (n * grid[0] + ty) * grid[1] + tx * rows


@jit(inline=True)
def within(i: Any, n: Any) -> Any:
    """i, or the nearest place from 0 to n."""
    return max(0, min(i, n))


@jit(inline=True)
def norm_of(norm: Any, c: Any) -> Any:
    """What ``normalised`` takes for channel c."""
    _, statistics, weight, affine, shift, shifted, act, channels = norm
    gain = statistics[3 * channels + c]
    beta = gain - gain
    if affine:
        gain = gain * weight[c]
    if shifted:
        beta = shift[c]
    return splat(statistics[c]), splat(statistics[channels + c]), splat(gain), splat(beta), act


@jit()
def copy_pixels(x: Any, at: Any, n: Any, ahead: Any, own: Any, to: Any) -> None:
    """n pixels of a plane; soon wanted is what lies ``ahead``."""
    size = lanes(x)
    for i in range(0, n, size):
        prefetch(x, at + i + ahead)
        store(own, to + i, load(x, at + i) if n - i >= size else load_first(x, at + i, n - i))


@jit()
def normalise(own: Any, at: Any, n: Any, norm: Any, c: Any) -> None:
    """n pixels of channel c in place."""
    h, e, gain, beta, act = norm_of(norm, c)
    for i in range(at, at + n, lanes(own)):
        store(own, i, normalised(load(own, i), h, e, gain, beta, act))


@jit()
def turn_pixels(
    x: Any, at: Any, pitch: Any, count: Any, n: Any, norm: Any, c: Any, own: Any, to: Any, ahead: Any
) -> None:
    """n pixels of ``count`` planes, ``pitch`` apart, normalised from channel c on; zeros in the other lanes.

    They are copied first, some at once: planes may well be a power of two apart, and so would all meet in a few sets of
    the cache when turned where they lie.
    """
    size = lanes(x)
    for lane in range(count, size):
        clear(own, lane * ROW, RUN // size)
    for j in range(0, n, RUN):
        some = min(RUN, n - j)
        for lane in range(count):
            copy_pixels(x, at + j + lane * pitch, some, ahead, own, lane * ROW)
            if norm[0]:
                normalise(own, lane * ROW, some, norm, c + lane)
        for k in range(0, some, size):
            transpose(own, k, ROW, own, to + (j + k) * size, size)


@jit()
def turn_rows(
    x: Any, plane: Any, pitch: Any, width: Any, count: Any, start: Any, stop: Any, n: Any, norm: Any, c: Any,
    own: Any, to: Any, ahead: Any,
) -> None:  # fmt: skip
    """The first n pixels of the rows from ``start`` to ``stop`` of ``count`` planes."""
    if n == width:
        turn_pixels(x, plane + start * width, pitch, count, (stop - start) * n, norm, c, own, to, ahead)
    else:
        for y in range(start, stop):
            turn_pixels(x, plane + y * width, pitch, count, n, norm, c, own, to, ahead)
            to += n * lanes(own)


@jit()
def clear(own: Any, at: Any, registers: Any) -> None:
    """Registers of zeros."""
    size = lanes(own)
    for i in range(at, at + registers * size, size):
        store(own, i, zeros(own))


@jit()
def input_columns(own: Any, r0: Any, r1: Any, r2: Any, r3: Any, r4: Any, r5: Any, n: Any, to: Any) -> None:
    """The first transform of n columns of six rows."""
    size = lanes(own)
    for i in range(0, n * size, size):
        d0, d1, d2 = load(own, r0 + i), load(own, r1 + i), load(own, r2 + i)
        d3, d4, d5 = load(own, r3 + i), load(own, r4 + i), load(own, r5 + i)
        put_six(own, to + 6 * i, size, input_transform(d0, d1, d2, d3, d4, d5, K))


@jit()
def result_columns(own: Any, r0: Any, r1: Any, r2: Any, r3: Any, n: Any, to: Any) -> None:
    """The first transform of n columns of four rows of results."""
    size = lanes(own)
    for i in range(0, n * size, size):
        g0, g1, g2, g3 = load(own, r0 + i), load(own, r1 + i), load(own, r2 + i), load(own, r3 + i)
        put_six(own, to + 6 * i, size, result_transform(g0, g1, g2, g3, K))


@jit()
def input_points(own: Any, at: Any, tiles: Any, v: Any, to: Any, point: Any) -> None:
    """The second transform of a row of tiles: 36 points of each, ``point`` apart."""
    size = lanes(own)
    for t in range(tiles):
        for i in range(6):
            j = at + (24 * t + i) * size
            d0, d1, d2 = load(own, j), load(own, j + 6 * size), load(own, j + 12 * size)
            d3, d4, d5 = load(own, j + 18 * size), load(own, j + 24 * size), load(own, j + 30 * size)
            put_six(v, to + t * LANES + 6 * i * point, point, input_transform(d0, d1, d2, d3, d4, d5, K))


@jit()
def result_points(own: Any, at: Any, tiles: Any, m: Any, to: Any, point: Any) -> None:
    """The second transform of a row of tiles of results, as ``input_points``."""
    size = lanes(own)
    for t in range(tiles):
        for i in range(6):
            j = at + (24 * t + i) * size
            g0, g1, g2, g3 = load(own, j), load(own, j + 6 * size), load(own, j + 12 * size), load(own, j + 18 * size)
            put_six(m, to + t * LANES + 6 * i * point, point, result_transform(g0, g1, g2, g3, K))


@jit(inline=True)
def result_row(own: Any, at: Any) -> Any:
    """The transform of one row of a tile."""
    size = lanes(own)
    return result_transform(load(own, at), load(own, at + size), load(own, at + 2 * size), load(own, at + 3 * size), K)


@jit()
def result_tiles(own: Any, at: Any, length: Any, tiles: Any, m: Any, to: Any, point: Any) -> None:
    """Both transforms of a row of tiles of results that lie in the picture as a whole, straight from the strip."""
    for _ in range(tiles):
        a, b = result_row(own, at), result_row(own, at + length)
        c, d = result_row(own, at + 2 * length), result_row(own, at + 3 * length)
        down = 6 * point
        put_six(m, to, down, result_transform(a[0], b[0], c[0], d[0], K))
        put_six(m, to + point, down, result_transform(a[1], b[1], c[1], d[1], K))
        put_six(m, to + 2 * point, down, result_transform(a[2], b[2], c[2], d[2], K))
        put_six(m, to + 3 * point, down, result_transform(a[3], b[3], c[3], d[3], K))
        put_six(m, to + 4 * point, down, result_transform(a[4], b[4], c[4], d[4], K))
        put_six(m, to + 5 * point, down, result_transform(a[5], b[5], c[5], d[5], K))
        at += 4 * lanes(own)
        to += LANES


@jit(inline=True)
def row_of(y: Any, y0: Any, y1: Any, strip: Any, length: Any, nothing: Any) -> Any:
    """Where row y of the picture lies, of which the strip holds those from y0 to y1."""
    return strip + (y - y0) * length if y0 <= y < y1 else nothing


@jit()
def transform(
    x: Any, plane: Any, count: Any, height: Any, width: Any, place: Any, before: Any, wide: Any, inputs: Any,
    norm: Any, c: Any, own: Any, v: Any, to: Any, point: Any, ahead: Any,
) -> None:  # fmt: skip
    """The points of a unit of ``count`` channels, of which c is the first, which lies at ``plane``.

    ``inputs``: of 6×6 inputs a tile, whose rows and columns begin ``before`` the picture's; else of 4×4 results.
    ``own`` has room for pixels that are turned, a row of zeros, lines and a strip, for ``wide`` tiles in a row.
    """
    size = lanes(own)
    _, ty, tx, rows, columns = place
    more = 2 if inputs else 0
    top, left = 4 * ty - before[0], 4 * tx - before[1]
    y0, y1 = within(top, height), within(top + 4 * rows + more, height)
    x0, x1 = within(left, width), within(left + 4 * columns + more, width)
    nothing = LANES * ROW
    lines = nothing + (4 * wide + 2) * size
    strip = lines + 6 * (4 * wide + 2) * size
    n, area = x1 - x0, height * width
    wanted = 4 * columns + more
    start, stop = within(x0 - left, wanted), within(x1 - left, wanted)
    clear(own, nothing, n)
    clear(own, lines, 6 * start)
    clear(own, lines + 6 * stop * size, 6 * (wanted - stop))
    start = lines + 6 * start * size
    length = n * size
    whole = n == wanted
    turned = y0
    for r in range(rows):
        y = top + 4 * r
        until = max(turned, min(y1, y + 4 + more))
        turn_rows(
            x, plane + x0, area, width, count, turned, until, n, norm, c, own, strip + (turned - y0) * length, ahead
        )
        turned = until
        r0, r1 = row_of(y, y0, y1, strip, length, nothing), row_of(y + 1, y0, y1, strip, length, nothing)
        r2, r3 = row_of(y + 2, y0, y1, strip, length, nothing), row_of(y + 3, y0, y1, strip, length, nothing)
        if inputs:
            r4, r5 = row_of(y + 4, y0, y1, strip, length, nothing), row_of(y + 5, y0, y1, strip, length, nothing)
            input_columns(own, r0, r1, r2, r3, r4, r5, n, start)
            input_points(own, lines, columns, v, to + r * columns * LANES, point)
        else:
            if whole and y + 4 <= y1:
                result_tiles(own, r0, length, columns, v, to + r * columns * LANES, point)
            else:
                result_columns(own, r0, r1, r2, r3, n, start)
                result_points(own, lines, columns, v, to + r * columns * LANES, point)


@jit()
def transform_units(
    x: Any, shape: Any, channels: Any, grid: Any, units: Any, before: Any, inputs: Any, norm: Any, own: Any,
    v: Any, to: Any, tiles: Any, point: Any,
) -> None:  # fmt: skip
    """The points of the units and channels of two pairs, first and last; zeros in the place of channels that x has not.

    ``grid`` as of ``kernels.winograd.unit_of``; groups of channels lie ``tiles`` apart in v.
    """
    size = lanes(own)
    _, depth, height, width = shape
    area = height * width
    for unit in range(*units):
        place, after = unit_of(unit, grid), unit_of(unit + 1, grid)
        plane = place[0] * depth * area
        step = (
            (after[0] - place[0]) * depth * area
            + (within(4 * after[1] - before[0], height) - within(4 * place[1] - before[0], height)) * width
            + 4 * (after[2] - place[2])
        )
        for c in range(channels[0], channels[1], size):
            ahead = size * area if c + size < depth else step - c * area
            group = c // LANES * tiles * LANES + c % LANES
            transform(
                x, plane + c * area, within(depth - c, size), height, width, place, before, grid[3], inputs, norm, c,
                own, v, to + group, point, ahead,
            )  # fmt: skip
        to += place[3] * place[4] * LANES
