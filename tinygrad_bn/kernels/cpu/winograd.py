"""3×3 convolution of stride 1 by Winograd's F(4×4, 3×3); the transforms are in ``kernels/winograd.py``.

    y[n, o] = Σ_c w[o, c] ⋆ x[n, c],   in the transformed domain  M[q, o, t] = Σ_c U[q, o, c] V[q, c, t]

for 36 points q of a tile and tiles t of 4×4 outputs. A block of tiles is transformed, multiplied and transformed back
in the second-level cache (``winograd_block.py``): V of all channels, M of some outputs. The filters U lie in panels of
HEIGHT outputs, in the order in which the products read them. Backward with respect to the input is the same with the
filters turned and transposed. Filters of several blocks of 3×3 see a channel as often, three elements further on each
time: channels of V, but not of x.

Inputs may be normalised on their way in, by batch statistics and an activation, so that a batch normalisation between
two convolutions costs no trip through memory. Results go to memory with their mean and M2, block by block, for a batch
normalisation that follows: sums around the block's first result and, should that lie far off, again around the mean
that they gave.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.simd import lanes, load_first, pointer_to, store_first
from tinygrad_bn.kernels.cpu.winograd_block import (
    input_lines,
    input_points,
    multiply,
    norm_of,
    output_lines,
    put_lines,
)
from tinygrad_bn.kernels.winograd import HEIGHT, LANES, POINTS

filter_transform = jit(inline=True)(winograd.filter_transform)
GRAIN = 1 << 15
F = tuple(np.float32(v) for v in winograd.FILTER)
FAR = 64.0  # (mean - centre)² / variance from which sums around a centre are taken again, around their mean
LAST = POINTS - 9  # the nine taps of a filter wait where its last nine points will be


@jit(inline=True)
def load_taps(u: Any, p: Any, step: Any, n: Any) -> Any:
    """One row of taps."""
    return load_first(u, p, n), load_first(u, p + step, n), load_first(u, p + 2 * step, n)


@jit(inline=True)
def store_points(u: Any, at: Any, step: Any, e: Any, n: Any) -> None:
    """The first n lanes of one row of points."""
    store_first(u, at, e[0], n)
    store_first(u, at + step, e[1], n)
    store_first(u, at + 2 * step, e[2], n)
    store_first(u, at + 3 * step, e[3], n)
    store_first(u, at + 4 * step, e[4], n)
    store_first(u, at + 5 * step, e[5], n)


@jit()
def filter_points(u: Any, at: Any, step: Any, n: Any) -> None:
    """G w Gᵀ in place, of n filters, at most a register full."""
    p = at + LAST * step
    w0, w1, w2 = load_taps(u, p, step, n)
    w3, w4, w5 = load_taps(u, p + 3 * step, step, n)
    w6, w7, w8 = load_taps(u, p + 6 * step, step, n)
    a, b, c = filter_transform(w0, w3, w6, F), filter_transform(w1, w4, w7, F), filter_transform(w2, w5, w8, F)
    store_points(u, at, step, filter_transform(a[0], b[0], c[0], F), n)
    store_points(u, at + 6 * step, step, filter_transform(a[1], b[1], c[1], F), n)
    store_points(u, at + 12 * step, step, filter_transform(a[2], b[2], c[2], F), n)
    store_points(u, at + 18 * step, step, filter_transform(a[3], b[3], c[3], F), n)
    store_points(u, at + 24 * step, step, filter_transform(a[4], b[4], c[4], F), n)
    store_points(u, at + 30 * step, step, filter_transform(a[5], b[5], c[5], F), n)


@parallel(work="u", grain=GRAIN)
def winograd_filters(w: Any, turned: Any, u: Any) -> None:
    first, second = w.shape[:2]
    outputs, inputs = (second, first) if turned else (first, second)
    output_step, input_step = (9, 9 * second) if turned else (9 * second, 9)
    last, sign = (8, -1) if turned else (0, 1)
    panels = -(-outputs // HEIGHT)
    length = inputs * HEIGHT
    step = u.shape[1]
    fw, fu = w.reshape(-1), u.reshape(-1)
    u[:, panels * length :] = 0
    for panel in prange(panels):
        at = panel * length
        for c in range(inputs):
            for r in range(HEIGHT):
                o = panel * HEIGHT + r
                to = at + LAST * step + c * HEIGHT + r
                if o < outputs:
                    tap = o * output_step + c * input_step + last
                    for i in range(9):
                        fu[to + i * step] = fw[tap + sign * i]
                else:
                    for i in range(9):
                        fu[to + i * step] = 0
        for i in range(0, length, lanes(u)):
            filter_points(pointer_to(fu), at + i, step, length - i)


@jit(inline=True)
def note(part: Any, n: Any, centre: Any, s: Any, q: Any) -> Any:
    """Count, mean and M2 of what lies around ``centre``; whether that is too far from the mean for them to be exact."""
    off = np.float64(s) / n
    part[0] = n
    part[1] = centre + off
    part[2] = q - s * off
    return s * off > FAR * part[2] and abs(off) > np.spacing(abs(centre))


@parallel(work="y", grain=GRAIN)
def winograd_convolution(
    x: Any, statistics: Any, weight: Any, shift: Any, act: Any, u: Any, bias: Any, top: Any, left: Any,
    blocks_h: Any, blocks_w: Any, tiles: Any, held: Any, work: Any, y: Any, parts: Any,
) -> None:  # fmt: skip
    samples, channels, height, width = x.shape
    inputs = blocks_h * blocks_w * channels
    _, outputs, rows, columns = y.shape
    down, across = -(-rows // 4), -(-columns // 4)
    count = samples * down * across
    blocks = -(-count // tiles)
    shares = work.shape[0]
    step = 4 * tiles + 2 * LANES
    v_point, m_point = inputs * tiles + LANES, held * tiles + LANES
    area, result_area = height * width, rows * columns
    fx, fu, fy = x.reshape(-1), u.reshape(-1), y.reshape(-1)
    for share in prange(shares):
        own = work[share]
        m = POINTS * v_point
        lines = m + POINTS * m_point + LANES
        for block in range(blocks * share // shares, blocks * (share + 1) // shares):
            first = block * tiles
            last = min(count, first + tiles)
            for i in range(inputs):
                piece, c = i // channels, i % channels
                if c == 0:  # what lies in the padding is another part of the lines
                    own[lines - LANES : lines + 12 * step] = 0
                input_lines(
                    pointer_to(fx), c * area, channels * area, height, width, first, last, down, across,
                    top - piece // blocks_w * 3, left - piece % blocks_w * 3,
                    norm_of(statistics, weight, shift, act, c), pointer_to(own), lines, step,
                )  # fmt: skip
                input_points(pointer_to(own), lines, step, tiles, pointer_to(own), i * tiles, v_point)
            for o0 in range(0, outputs, held):
                panels = (min(held, outputs - o0) + HEIGHT - 1) // HEIGHT
                for q in range(POINTS):
                    multiply(
                        pointer_to(fu), q * u.shape[1] + o0 * inputs, 1, HEIGHT, HEIGHT * inputs, panels,
                        pointer_to(own), q * v_point, tiles, pointer_to(own), m + q * m_point, inputs, False,
                    )  # fmt: skip
                for o in range(o0, min(o0 + held, outputs)):
                    offset = bias[o] if bias.size else x.dtype.type(0)
                    at = m + (o - o0) * tiles
                    output_lines(pointer_to(own), at, m_point, tiles, pointer_to(own), lines, step)
                    centre = own[lines] + offset
                    again = True
                    while again:
                        n, s, q = put_lines(
                            pointer_to(own), lines, step, first, last, down, across, offset, centre,
                            pointer_to(fy), o * result_area, outputs * result_area, rows, columns,
                        )  # fmt: skip
                        again = parts.size > 0 and note(parts[o, block], n, centre, s, q)
                        centre += x.dtype.type(s / n)
