"""Direct convolution, and its gradient with respect to the input, as a sum of taps:

    out[n, r, i p + a, j p' + b] = bias[r] + Σ_c Σ_taps of (a, b)  w[r, c, tap] x[n, c, i s + dy, j s' + dx]

``kernels/direct.py`` says how it is cut. A strip of the grid (i, j) is worked on at a time: the lines of the input that
it needs are copied, shifted, padded and split by the stride, so that a register of its points meets each tap in one
load; then tile after tile of outputs by points is summed in registers, filters and lines read where they are
(``direct_tiles.py``). No columns are stored but those of a strip, KW times its input. Where a filter is one element and
the stride 1, nothing is copied.

Results go to the output at once where the points of a strip lie there side by side; else, of several phases, samples
or blocks of channels, by way of a piece of workspace.

Georganas et al. 2018 (arXiv:1808.05567) describe the register tiles, with another layout; Zhang, Franchetti & Low 2018
(arXiv:1809.10170) why no columns are needed.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.direct_lines import fill_strip
from tinygrad_bn.kernels.cpu.direct_tiles import SHAPES, direct_tiles
from tinygrad_bn.kernels.cpu.shuffles import store_every2
from tinygrad_bn.kernels.cpu.simd import lanes, load, load_first, pointer_to, store_first
from tinygrad_bn.kernels.cpu.tiles import ROWS
from tinygrad_bn.kernels.direct import LINE, SHARE

_tiles = direct_tiles()
wide_many, wide_four, wide_three, wide_one = _tiles.wide_many, _tiles.wide_four, _tiles.wide_three, _tiles.wide_one
edge_many, edge_four, edge_three, edge_one = _tiles.edge_many, _tiles.edge_four, _tiles.edge_three, _tiles.edge_one
MANY, FOUR, THREE, ONE = (SHAPES[rows] for rows in (ROWS, 4, 3, 1))
GRAIN = 400_000  # multiply-adds from which two threads pay


@jit()
def row_of_tiles(
    kind: Any, w: Any, pw: Any, steps: Any, b: Any, pb: Any, plane: Any, channels: Any, ahead: Any, taps: Any,
    first: Any, last: Any, bias: Any, at: Any, biased: Any, c: Any, pc: Any, ldc: Any, points: Any,
) -> None:  # fmt: skip
    """All points of a strip for as many outputs as a ``kind`` of tiles has rows."""
    size = lanes(b)
    row_step, channel_step = steps
    m = 0
    if kind == ROWS:
        while m + MANY * size <= points:
            wide_many(
                w, pw, row_step, channel_step, b, pb + m, plane, channels, ahead, taps, first, last, bias, at,
                biased, c, pc + m, ldc, points - m,
            )  # fmt: skip
            m += MANY * size
        while m < points:
            edge_many(
                w, pw, row_step, channel_step, b, pb + m, plane, channels, ahead, taps, first, last, bias, at,
                biased, c, pc + m, ldc, points - m,
            )  # fmt: skip
            m += size
    elif kind == 4:
        while m + FOUR * size <= points:
            wide_four(
                w, pw, row_step, channel_step, b, pb + m, plane, channels, ahead, taps, first, last, bias, at,
                biased, c, pc + m, ldc, points - m,
            )  # fmt: skip
            m += FOUR * size
        while m < points:
            edge_four(
                w, pw, row_step, channel_step, b, pb + m, plane, channels, ahead, taps, first, last, bias, at,
                biased, c, pc + m, ldc, points - m,
            )  # fmt: skip
            m += size
    elif kind == 3:
        while m + THREE * size <= points:
            wide_three(
                w, pw, row_step, channel_step, b, pb + m, plane, channels, ahead, taps, first, last, bias, at,
                biased, c, pc + m, ldc, points - m,
            )  # fmt: skip
            m += THREE * size
        while m < points:
            edge_three(
                w, pw, row_step, channel_step, b, pb + m, plane, channels, ahead, taps, first, last, bias, at,
                biased, c, pc + m, ldc, points - m,
            )  # fmt: skip
            m += size
    else:
        while m + ONE * size <= points:
            wide_one(
                w, pw, row_step, channel_step, b, pb + m, plane, channels, ahead, taps, first, last, bias, at,
                biased, c, pc + m, ldc, points - m,
            )  # fmt: skip
            m += ONE * size
        while m < points:
            edge_one(
                w, pw, row_step, channel_step, b, pb + m, plane, channels, ahead, taps, first, last, bias, at,
                biased, c, pc + m, ldc, points - m,
            )  # fmt: skip
            m += size


@jit()
def kind_of_tiles(left: Any, rows: Any) -> Any:
    """How many of the ``left`` last of ``rows`` outputs a tile takes: where it can, it overlaps the one before."""
    if rows >= ROWS and left > 4:
        return ROWS
    if rows >= 4:
        return 4
    return 3 if left == 3 else 1


@jit(inline=True)
def move(kept: Any, at: Any, out: Any, to: Any, n: Any, added: Any) -> None:
    """out[to + j] = kept[at + j], or that added to it, for j < n."""
    size = lanes(out)
    for j in range(0, n, size):
        v = load_first(kept, at + j, n - j)
        if added:
            v = v + load_first(out, to + j, n - j)
        store_first(out, to + j, v, n - j)


@jit(inline=True)
def spread_row(
    kept: Any, at: Any, phase: Any, pairs: Any, out: Any, to: Any, step: Any, columns: Any, count: Any, added: Any
) -> None:
    """One row of the output, ``count`` elements, of ``columns`` points and ``step`` phases, ``phase`` apart.

    ``pairs``: where two registers may be mixed.
    """
    size = lanes(out)
    if step == 2:
        n = min(2 * columns, count)
        for j in range(0, columns, size):
            v, w = load(kept, at + j), load(kept, at + phase + j)
            if not added and n - 2 * j >= 2 * size:
                store_every2(out, to + 2 * j, v, w)
            else:
                store_every2(kept, pairs, v, w)
                move(kept, pairs, out, to + 2 * j, min(2 * size, n - 2 * j), added)
        return
    for b in range(step):
        for j in range(min(columns, (count - b + step - 1) // step)):
            v = kept[at + b * phase + j]
            if added:
                v += out[to + j * step + b]
            out[to + j * step + b] = v


@jit()
def spread_points(
    kept: Any, at: Any, pitch: Any, pairs: Any, out: Any, to: Any, extents: Any, spread: Any, strip: Any, added: Any
) -> None:
    """Put one output's results where they belong: sample after sample, row after row, phase after phase.

    ``strip``: samples, first row, rows, first column, columns, elements from a sample of ``out`` to the next.
    """
    samples, i0, rows, j0, columns, sample_step = strip
    for m in range(samples):
        base = to + m * sample_step
        if spread[0] == 1 and spread[1] == 1:
            move(kept, at + m * rows * columns, out, base + i0 * extents[1] + j0, rows * columns, added)
            continue
        for i in range(rows):
            for a in range(min(spread[0], extents[0] - (i0 + i) * spread[0])):
                y = (i0 + i) * spread[0] + a
                left = j0 * spread[1]
                spread_row(
                    kept, at + a * spread[1] * pitch + (m * rows + i) * columns, pitch, pairs,
                    out, base + y * extents[1] + left, spread[1], columns, extents[1] - left, added,
                )  # fmt: skip


@jit()
def last_of_phase(taps: Any, first: Any, a: Any, b: Any) -> Any:
    """Where the taps of a phase end that begin at ``first``."""
    last = first
    while last < taps.shape[0] and taps[last, 0] == a and taps[last, 1] == b:
        last += 1
    return last


@jit()
def sum_strip(
    b: Any, pb: Any, plane: Any, w: Any, pw: Any, steps: Any, channels: Any, taps: Any, bias: Any, biased: Any,
    at: Any, begin: Any, stop: Any, points: Any, near: Any, kept: Any, keep: Any, apart: Any, added: Any, out: Any,
    to: Any, extents: Any, spread: Any, strip: Any,
) -> None:  # fmt: skip
    """Outputs ``begin`` … ``stop`` of a group at the points of a strip; ``apart``: by way of ``kept``.

    ``near``: the next strip's points lie in ``b`` behind this one's.
    """
    size = extents[0] * extents[1]
    r = begin
    while r < stop:
        kind = kind_of_tiles(stop - r, stop - begin)
        top = max(begin, min(r, stop - kind))
        last, ahead = 0, 0
        if near and r - begin < 4 * ROWS:  # each row of tiles asks for a line of every tile of the next strip
            ahead = points + (r - begin) // ROWS * LINE
        for phase in range(spread[0] * spread[1]):
            begin_tap = last
            last = last_of_phase(taps, begin_tap, phase // spread[1], phase % spread[1])
            target, pc, ldc = out, to + top * size + strip[1] * extents[1] + strip[3], size
            if apart:
                target, pc, ldc = kept, keep + phase * SHARE * points, points
            row_of_tiles(
                kind, w, pw + top * steps[0], steps, b, pb, plane, channels if last > begin_tap else 0,
                ahead, pointer_to(taps), begin_tap, last, pointer_to(bias), at + top, biased, target, pc, ldc, points,
            )  # fmt: skip
        if apart:
            for o in range(r, top + kind):
                place = keep + (o - top) * points
                pairs = keep + spread[0] * spread[1] * SHARE * points + LINE
                spread_points(kept, place, SHARE * points, pairs, out, to + o * size, extents, spread, strip, added)
        r = top + kind


def _work(x: Any, w: Any, bias: Any, turned: Any, *rest: Any) -> int:
    """Multiply-adds: each element of what is not spread meets the filters of its group."""
    outputs = x.size if turned else rest[-1].size
    return outputs * w.shape[1] * w.shape[2] * w.shape[3]  # type: ignore[no-any-return]


@parallel(work=_work, grain=GRAIN)
def direct_convolution(
    x: Any, w: Any, bias: Any, turned: Any, stride_h: Any, stride_w: Any, spread_h: Any, spread_w: Any,
    taps: Any, lines: Any, cut: Any, work: Any, out: Any,
) -> None:  # fmt: skip
    samples, all_channels, height, width = x.shape
    all_rows, out_h, out_w = out.shape[1:]
    groups = (all_rows if turned else all_channels) // w.shape[1]
    channels, rows, window = all_channels // groups, all_rows // groups, w.shape[2] * w.shape[3]
    steps = (window, rows * window) if turned else (channels * window, window)
    grid_h, grid_w = -(-out_h // spread_h), -(-out_w // spread_w)
    some, down, across, depth, shares, elements = cut[0], cut[1], cut[2], cut[3], cut[4], cut[5]
    cut_h, cut_w = -(-grid_h // down), -(-grid_w // across)
    tasks, workers = -(-samples // some) * groups * cut_h * cut_w * shares, work.shape[0]
    apart, copied = spread_h * spread_w > 1 or some > 1 or depth < channels, lines.shape[0] > 0
    fx, fw, fy = x.reshape(-1), w.reshape(-1), out.reshape(-1)
    for worker in prange(workers):
        own = work[worker]
        for task in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            share, rest = task % shares, task // shares
            j0, rest = rest % cut_w * across, rest // cut_w
            i0, rest = rest % cut_h * down, rest // cut_h
            g, n = rest % groups, rest // groups * some
            s, h, v = min(some, samples - n), min(down, grid_h - i0), min(across, grid_w - j0)
            for c0 in range(0, channels, depth):
                deep = min(depth, channels - c0)
                at = (n * all_channels + g * channels + c0) * height * width
                if copied:
                    fill_strip(
                        fx, at, (height, width), (stride_h, stride_w), lines, (down - h, across - v), (i0, j0), deep,
                        s, all_channels * height * width, elements, h * v, own,
                    )  # fmt: skip
                sum_strip(
                    pointer_to(own) if copied else pointer_to(fx), 0 if copied else at + i0 * width + j0,
                    elements if copied else height * width, pointer_to(fw),
                    g * channels * rows * window + c0 * steps[1], steps, deep, taps,
                    bias, c0 == 0 and bias.size > 0, g * rows, rows * share // shares, rows * (share + 1) // shares,
                    s * h * v, not copied and j0 + v < grid_w, pointer_to(own), depth * elements, apart, c0 > 0,
                    pointer_to(fy), (n * all_rows + g * rows) * out_h * out_w, (out_h, out_w), (spread_h, spread_w),
                    (s, i0, h, j0, v, all_rows * out_h * out_w),
                )  # fmt: skip
