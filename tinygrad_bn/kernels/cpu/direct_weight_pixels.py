"""The gradient of a convolution's filters as a direct sum, registers along the pixels.

    gw[o, c, p, q] = Σ_{n,i,j} gy[n, o, i, j] x[n, c, i s_h + p d_h - top, j s_w + q d_w - left]

For few outputs, which would leave registers along them half empty (``direct_weight.py``), and for few taps, which would
not pay for transposing gy. Here gy is read in place; of x each channel is laid out once for each column q of the
filters, shifted by it and without the columns between strides, its rows by the phase of their stride: then what tap p
reads for a block of rows is one stretch, behind that of p = 0 by whole rows. 1×1 filters read x in place.

Blocks, parts and ranges, and what they mean for the order of additions, are those of ``direct_weight.py``;
a block has one row where it has not whole rows.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels import direct_weight as sizes
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.convolution import inside
from tinygrad_bn.kernels.cpu.direct_weight import (
    GRAIN,
    add_parts,
    channel_step,
    lay_row,
    row_step,
    strip_rows,
)
from tinygrad_bn.kernels.cpu.direct_weight import _work as amount
from tinygrad_bn.kernels.cpu.shuffles import load_every
from tinygrad_bn.kernels.cpu.simd import lanes, load, load_first, pointer_to, store
from tinygrad_bn.kernels.cpu.weight_tiles import DOTS, FEW, tiles

_tiles = tiles()
dots_many, dots_few = getattr(_tiles, f"dots_{DOTS}"), getattr(_tiles, f"dots_{FEW}")
TOTALS = sizes.TOTALS


@jit()
def lay_every(x: Any, at: Any, stride: Any, lo: Any, hi: Any, end: Any, n: Any, strip: Any, to: Any) -> None:
    """strip[to + j] = x[at + j · stride] for lo <= j < hi, else 0, for all j < n; the row ends at x[at + end]."""
    size = lanes(x)
    for j in range(lo):
        strip[to + j] = 0
    j = lo
    if stride == 2:
        while j + size <= hi and 2 * (j + size) <= end:
            store(strip, to + j, load_every(x, at + 2 * j, 0, 2))
            j += size
    while j < hi:
        strip[to + j] = x[at + j * stride]
        j += 1
    while j < n:
        strip[to + j] = 0
        j += 1


@jit()
def lay_whole(
    x: Any, plane: Any, height: Any, width: Any, y0: Any, x0: Any, lo: Any, hi: Any, lines: Any, strip: Any, to: Any
) -> None:
    """Rows y0, y0 + 1, … of a plane, all columns, shifted by x0: in one stretch, then what the shift brought across the
    rows' ends taken out."""
    size = lanes(x)
    first = min(lines, max(0, -y0))
    end = max(first, min(lines, height - y0))
    at = plane + y0 * width + x0
    begin, stop = first * width + lo, end * width - (width - hi)
    for j in range(begin, stop, size):
        store(strip, to + j, load(x, at + j) if j + size <= stop else load_first(x, at + j, stop - j))
    for j in range(lo):  # columns first: a row has one or two such elements, too few for a loop of their own
        for i in range(first, end):
            strip[to + i * width + j] = 0
    for j in range(hi, width):
        for i in range(first, end):
            strip[to + i * width + j] = 0
    for j in range(first * width):
        strip[to + j] = 0
    for j in range(end * width, lines * width):
        strip[to + j] = 0


@jit()
def lay_shifted(
    x: Any, plane: Any, height: Any, width: Any, y0: Any, step: Any, x0: Any, stride: Any, lines: Any, phases: Any,
    each: Any, columns: Any, strip: Any, to: Any,
) -> None:  # fmt: skip
    """Rows y0, y0 + step, … of a plane, by phases, columns x0, x0 + stride, …; 0 outside of the plane."""
    lo, hi = inside(x0, stride, width, columns)
    if step == stride == phases == 1 and columns == width and lo < hi:
        lay_whole(x, plane, height, width, y0, x0, lo, hi, lines, strip, to)
        return
    for phase in range(phases):
        for i in range(phase, lines, phases):
            y = y0 + i * step
            at, into = plane + y * width + x0, to + (phase * each + i // phases) * columns
            last = hi if 0 <= y < height else lo
            if stride == 1:
                lay_row(x, at, lo, last, columns, strip, into)
            else:
                lay_every(x, at, stride, lo, last, width - x0, columns, strip, into)


@jit()
def lay_places(
    channels: Any, step: Any, kh: Any, apart: Any, phases: Any, each: Any, columns: Any, kw: Any, places: Any
) -> None:
    """Where the taps of each channel read, from the block's place on; those that only fill up a tile as the first."""
    t = 0
    for c in range(channels):
        for p in range(kh):
            row = p * apart % phases * each + p * apart // phases
            for q in range(kw):
                places[t] = (c * kw + q) * step + row * columns
                t += 1
    places[t:] = 0


@jit()
def add_dots(
    x: Any, px: Any, places: Any, taps: Any, over: Any, gy: Any, pg: Any, outputs: Any, length: Any, beyond: Any,
    samples: Any, n: Any, totals: Any, c: Any, pc: Any, pitch: Any, added: Any,
) -> None:  # fmt: skip
    """The products of a block of n pixels with all taps, tile by tile; added to what is there if ``added``."""
    down, across = -(-taps // DOTS), -(-outputs // 4)
    for k in range(down * across):
        # what the inner loop runs over should stay in the first-level cache
        t, o = (k // across * DOTS, k % across * 4) if outputs < taps else (k % down * DOTS, k // down * 4)
        last, left = min(3, outputs - 1 - o), min(DOTS, taps - t)
        if left > FEW:
            dots_many(x, px, places, t, over, gy, pg + o * length, length, last, beyond, samples, n, totals, 0)
        else:
            dots_few(x, px, places, t, over, gy, pg + o * length, length, last, beyond, samples, n, totals, 0)
        for i in range(left):
            at = pc + (t + i) * pitch + o
            for j in range(4):
                c[at + j] = totals[4 * i + j] + (c[at + j] if added else 0)


@parallel(work=amount, grain=GRAIN)
def direct_weight_pixels(
    x: Any, gy: Any, stride_h: Any, stride_w: Any, top: Any, left: Any, dilation_h: Any, dilation_w: Any,
    samples: Any, rows: Any, columns: Any, channels: Any, places: Any, work: Any, parts: Any, gw: Any,
) -> None:  # fmt: skip
    batch, inputs, height, width = x.shape
    _, outputs, down, right = gy.shape
    _, depth, kh, kw = gw.shape
    count, groups, ranges, held, pitch = parts.shape
    each, taps, size, shares = outputs // groups, kh * kw, lanes(x), work.shape[0]
    step = row_step(kh, stride_h, dilation_h)
    phases, in_place = stride_h // step, taps == stride_h * stride_w == 1 and top == left == 0 and right == width
    phase = -(-strip_rows(rows, kh, stride_h, dilation_h) // phases)
    plane = height * width if in_place else channel_step(samples, phases * phase, columns)
    over = inputs * height * width if in_place else phases * phase * columns
    bands, walls = -(-down // rows), -(-right // columns)
    units = -(-batch // samples) * bands * walls
    tasks = count * groups * ranges
    fx, fgy, fparts, fgw = x.reshape(-1), gy.reshape(-1), parts.reshape(-1), gw.reshape(-1)
    for share in prange(shares):
        own, at = work[share], places[share]
        for task in range(tasks * share // shares, tasks * (share + 1) // shares):
            part, group, c0 = task // (groups * ranges), task // ranges % groups, task % ranges * channels
            many = min(channels, depth - c0)
            lay_places(many, plane, kh, dilation_h // step, phases, phase, columns, kw, at)
            begin = units * part // count
            for unit in range(begin, units * (part + 1) // count):
                n0, i0, j0 = unit // (bands * walls) * samples, unit // walls % bands * rows, unit % walls * columns
                n1, i1, j1 = min(samples, batch - n0), min(rows, down - i0), min(columns, right - j0)
                first = (n0 * inputs + group * depth + c0) * height * width
                lines = 0 if in_place else strip_rows(i1, kh, stride_h, dilation_h)
                for k in range(many * kw * n1 if lines else 0):
                    n, c, q = k % n1, k // (kw * n1), k // n1 % kw
                    lay_shifted(
                        pointer_to(fx), first + (n * inputs + c) * height * width, height, width,
                        i0 * stride_h - top, step, j0 * stride_w + q * dilation_w - left, stride_w, lines, phases,
                        phase, columns, pointer_to(own), TOTALS + (c * kw + q) * plane + n * over,
                    )  # fmt: skip
                pg = ((n0 * outputs + group * each) * down + i0) * right + j0
                n, pc, row = i1 * j1, task * held * pitch, down * right
                if in_place:
                    add_dots(
                        pointer_to(fx), first + i0 * width + j0, pointer_to(at), many, over, pointer_to(fgy), pg, each,
                        row, outputs * row, n1, n, pointer_to(own), pointer_to(fparts), pc, pitch, unit > begin,
                    )  # fmt: skip
                else:
                    add_dots(
                        pointer_to(own), TOTALS, pointer_to(at), many * taps, over, pointer_to(fgy), pg, each,
                        row, outputs * row, n1, n, pointer_to(own), pointer_to(fparts), pc, pitch, unit > begin,
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
