"""The gradient of a convolution's filters as a direct sum.

    gw[o, c, p, q] = Σ_{n,i,j} gy[n, o, i, j] x[n, c, i s_h + p d_h - top, j s_w + q d_w - left]

The registers lie along the outputs o: gy is transposed, block by block, and elements of x are broadcast, each at its
tap's place from the pixel's. So any stride, dilation and kernel is the same loop, without columns. A block of a few
hundred pixels at a time: of x the strip that its windows read, padded, of a range of channels; of gy a few registers of
outputs. Both stay in the second-level cache, and a tile's sums in registers over all its pixels.

The sum is cut into parts of neighbouring blocks, the taps into ranges of channels: what is added to what, and in which
order, follows from the shapes, for any number of threads.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels import direct_weight as sizes
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.shuffles import transpose
from tinygrad_bn.kernels.cpu.simd import lanes, load, load_first, pointer_to, store, store_first, zeros
from tinygrad_bn.kernels.cpu.weight_tiles import TAPS, tiles

GRAIN = 1 << 19  # multiply-adds from which two threads pay
LEAST, REGISTERS = sizes.LEAST, sizes.REGISTERS
row_step, reach, channel_step = (jit()(f) for f in (sizes.row_step, sizes.reach, sizes.channel_step))

_tiles = tiles()
whole_1, whole_2, whole_3 = (getattr(_tiles, f"tile_{TAPS}_{j}") for j in (1, 2, 3))
least_1, least_2, least_3 = (getattr(_tiles, f"tile_{LEAST}_{j}") for j in (1, 2, 3))


@jit()
def strip_rows(rows: Any, kernel: Any, stride: Any, dilation: Any) -> Any:
    """As ``sizes.strip_rows``."""
    return (reach(rows, kernel, stride, dilation) - 1) // row_step(kernel, stride, dilation) + 1


@jit()
def lay_row(x: Any, at: Any, lo: Any, hi: Any, n: Any, strip: Any, to: Any) -> None:
    """strip[to + j] = x[at + j] for lo <= j < hi, else 0, for all j < n; zeros up to a register beyond."""
    size = lanes(x)
    for j in range(0, lo, size):
        store(strip, to + j, zeros(x))
    j = lo
    while j + size <= hi:
        store(strip, to + j, load(x, at + j))
        j += size
    if j < hi:
        store(strip, to + j, load_first(x, at + j, hi - j))
        j += size
    while j < n:
        store(strip, to + j, zeros(x))
        j += size


@jit()
def lay_plane(
    x: Any,
    plane: Any,
    height: Any,
    width: Any,
    y0: Any,
    step: Any,
    x0: Any,
    rows: Any,
    columns: Any,
    strip: Any,
    to: Any,
) -> None:
    """Rows y0, y0 + step, … of a plane, columns x0 …, to the strip; 0 outside of the plane."""
    lo = min(columns, max(0, -x0))
    hi = max(lo, min(columns, width - x0))
    for i in range(rows):
        y = y0 + i * step
        inside = 0 <= y < height
        lay_row(x, plane + y * width + x0, lo, hi if inside else lo, columns, strip, to + i * columns)


@jit()
def lay_gradients(gy: Any, at: Any, step: Any, outputs: Any, n: Any, g: Any, to: Any, pitch: Any, square: Any) -> None:
    """g[to + t · pitch + o] = gy[at + o · step + t] of n pixels t and a register of outputs o, those beyond zero."""
    size = lanes(gy)
    for t in range(0, n, size):
        if outputs >= size and t + size <= n:
            transpose(gy, at + t, step, g, to + t * pitch, pitch)
        else:
            for o in range(size):
                store(g, square + o * size, load_first(gy, at + o * step + t, n - t if o < outputs else 0))
            transpose(g, square, size, g, to + t * pitch, pitch)


@jit()
def lay_places(channels: Any, step: Any, kh: Any, down: Any, kw: Any, across: Any, places: Any) -> None:
    """Where the taps of each channel read, from a window's place on; those that only fill up a tile as the first."""
    t = 0
    for c in range(channels):
        for p in range(kh):
            for q in range(kw):
                places[t] = c * step + p * down + q * across
                t += 1
    places[t:] = 0


@jit()
def add_products(
    x: Any, px: Any, places: Any, taps: Any, extent: Any, steps: Any, g: Any, pg: Any, registers: Any, c: Any, pc: Any,
    pitch: Any, added: Any,
) -> None:  # fmt: skip
    """The products of a block of gradients with all taps, tile by tile; added to what is there if ``added``."""
    (samples, rows, columns), (over, down, across) = extent, steps
    t = 0
    while t < taps:
        at = pc + t * pitch
        if taps - t > LEAST:
            if registers == 1:
                whole_1(x, px, places, t, samples, over, rows, down, columns, across, g, pg, c, at, pitch, added)
            elif registers == 2:
                whole_2(x, px, places, t, samples, over, rows, down, columns, across, g, pg, c, at, pitch, added)
            else:
                whole_3(x, px, places, t, samples, over, rows, down, columns, across, g, pg, c, at, pitch, added)
            t += TAPS
        else:
            if registers == 1:
                least_1(x, px, places, t, samples, over, rows, down, columns, across, g, pg, c, at, pitch, added)
            elif registers == 2:
                least_2(x, px, places, t, samples, over, rows, down, columns, across, g, pg, c, at, pitch, added)
            else:
                least_3(x, px, places, t, samples, over, rows, down, columns, across, g, pg, c, at, pitch, added)
            t += LEAST


@jit()
def add_block(
    gy: Any, shape: Any, o0: Any, outputs: Any, origin: Any, extent: Any, own: Any, square: Any,
    places: Any, taps: Any, steps: Any, c: Any, pc: Any, pitch: Any, added: Any,
) -> None:  # fmt: skip
    """The products of a block of pixels, whose strip is laid out, with ``outputs`` gradients from o0 on."""
    (n0, i0, j0), (samples, rows, columns) = origin, extent
    size = lanes(gy)
    block = square + size * size
    every = -(-outputs // size)
    groups = -(-every // REGISTERS)
    runs, length = (1, rows * columns) if columns == shape[3] else (rows, columns)
    for group in range(groups):
        first = every * group // groups
        registers = every * (group + 1) // groups - first
        for k in range(registers):
            o = (first + k) * size
            for n in range(samples):
                for run in range(runs):
                    at = (((n0 + n) * shape[1] + o0 + o) * shape[2] + i0 + run) * shape[3] + j0
                    to = block + ((n * runs + run) * length * registers + k) * size
                    lay_gradients(gy, at, shape[2] * shape[3], outputs - o, length, own, to, registers * size, square)
        add_products(own, 0, places, taps, extent, steps, own, block, registers, c, pc + first * size, pitch, added)


@jit()
def add_parts(
    parts: Any, at: Any, count: Any, step: Any, pitch: Any, taps: Any, outputs: Any, own: Any,
    gw: Any, to: Any, row: Any,
) -> None:  # fmt: skip
    """gw[to + o · row + t] = Σ_k parts[at + k · step + t · pitch + o] of a register of outputs o, and all taps t."""
    size = lanes(gw)
    for t in range(0, taps, size):
        for i in range(min(size, taps - t)):
            p = at + (t + i) * pitch
            v = load(parts, p)
            for k in range(1, count):
                v = v + load(parts, p + k * step)
            store(own, i * size, v)
        transpose(own, 0, size, own, size * size, size)
        for o in range(min(size, outputs)):
            store_first(gw, to + o * row + t, load(own, (size + o) * size), taps - t)


def _work(*arguments: Any) -> int:
    gy, gw = arguments[1], arguments[-1]
    return gy.size * (gw.size // gw.shape[0])  # type: ignore[no-any-return]


@parallel(work=_work, grain=GRAIN)
def direct_weight(
    x: Any, gy: Any, stride_h: Any, stride_w: Any, top: Any, left: Any, dilation_h: Any, dilation_w: Any,
    samples: Any, rows: Any, columns: Any, channels: Any, places: Any, work: Any, parts: Any, gw: Any,
) -> None:  # fmt: skip
    batch, inputs, height, width = x.shape
    _, outputs, down, right = gy.shape
    _, depth, kh, kw = gw.shape
    count, groups, ranges, held, pitch = parts.shape
    each, taps, size, shares = outputs // groups, kh * kw, lanes(x), work.shape[0]
    step = row_step(kh, stride_h, dilation_h)
    lines, line = strip_rows(rows, kh, stride_h, dilation_h), reach(columns, kw, stride_w, dilation_w)
    plane = channel_step(samples, lines, line)
    steps = lines * line, stride_h // step * line, stride_w
    bands, walls = -(-down // rows), -(-right // columns)
    units = -(-batch // samples) * bands * walls
    tasks = count * groups * ranges
    fx, fgy, fparts, fgw = x.reshape(-1), gy.reshape(-1), parts.reshape(-1), gw.reshape(-1)
    for share in prange(shares):
        own, at = work[share], places[share]
        for task in range(tasks * share // shares, tasks * (share + 1) // shares):
            part, group, c0 = task // (groups * ranges), task // ranges % groups, task % ranges * channels
            many = min(channels, depth - c0)
            lay_places(many, plane, kh, dilation_h // step * line, kw, dilation_w, at)
            begin = units * part // count
            for unit in range(begin, units * (part + 1) // count):
                n0, i0, j0 = unit // (bands * walls) * samples, unit // walls % bands * rows, unit % walls * columns
                extent = min(samples, batch - n0), min(rows, down - i0), min(columns, right - j0)
                for c in range(many):
                    for n in range(extent[0]):
                        lay_plane(
                            pointer_to(fx), ((n0 + n) * inputs + group * depth + c0 + c) * height * width,
                            height, width, i0 * stride_h - top, step, j0 * stride_w - left,
                            strip_rows(extent[1], kh, stride_h, dilation_h), line,
                            pointer_to(own), c * plane + n * lines * line,
                        )  # fmt: skip
                add_block(
                    pointer_to(fgy), gy.shape, group * each, each, (n0, i0, j0), extent,
                    pointer_to(own), channels * plane, pointer_to(at), many * taps, steps,
                    pointer_to(fparts), task * held * pitch, pitch, unit > begin,
                )  # fmt: skip
    blocks = groups * (pitch // size)
    for share in prange(shares):
        own = work[share]
        for block in range(blocks * share // shares, blocks * (share + 1) // shares):
            group, o = block // (pitch // size), block % (pitch // size) * size
            for range_ in range(ranges):
                c0 = range_ * channels
                add_parts(
                    pointer_to(fparts), (group * ranges + range_) * held * pitch + o, count,
                    groups * ranges * held * pitch, pitch, min(channels, depth - c0) * taps, each - o, pointer_to(own),
                    pointer_to(fgw), ((group * each + o) * depth + c0) * taps, depth * taps,
                )  # fmt: skip
