"""Pictures, and filters, in pieces: phases of a stride or of a dilation, blocks of three taps.

    gather_pieces     out[n, p, q, c, i, j] = x[n, c, i s_h + p t_h - top, j s_w + q t_w - left], 0 outside of x
    scatter_pieces    out[n, c, i s_h + p t_h - top, j s_w + q t_w - left] = pieces[n, p, q, c, i, j], wherever inside

Copies, a register at a time where the stride is 1, 2 or 4. Reads of every second element may go on into the next row,
but not past the array's end; two phases that are stored side by side may too, into the next row of the same plane,
which is written afterwards.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.convolution import inside
from tinygrad_bn.kernels.cpu.shuffles import load_every, store_every2
from tinygrad_bn.kernels.cpu.simd import lanes, load, load_first, pointer_to, store, store_first, zeros

GRAIN = 1 << 15
RUN = 16  # channels that are taken one behind the other


@jit(inline=True)
def clear(a: Any, at: Any, n: Any) -> None:
    """n zeros."""
    for j in range(0, n, lanes(a)):
        store_first(a, at + j, zeros(a), n - j)


@jit(inline=True)
def put(a: Any, at: Any, v: Any, n: Any) -> None:
    """The first n lanes, or all: a store without a mask is the faster one."""
    if n >= lanes(a):
        store(a, at, v)
    else:
        store_first(a, at, v, n)


@jit(inline=True)
def copy_row(x: Any, i: Any, n: Any, out: Any, to: Any) -> None:
    """n elements side by side."""
    wide = lanes(x)
    whole = n - n % wide
    for j in range(0, whole, wide):
        store(out, to + j, load(x, i + j))
    if whole < n:
        store_first(out, to + whole, load_first(x, i + whole, n - whole), n - whole)


@jit(inline=True)
def take_row(x: Any, i: Any, size: Any, stride: Any, n: Any, out: Any, to: Any) -> None:
    """n elements of x, of ``size`` in all, from i on, ``stride`` apart, side by side."""
    wide = lanes(x)
    j = 0
    if stride == 2:
        while j < n and i + 2 * (j + wide) <= size:
            put(out, to + j, load_every(x, i + 2 * j, 0, 2), n - j)
            j += wide
    elif stride == 4:
        while j < n and i + 4 * (j + wide) <= size:
            put(out, to + j, load_every(x, i + 4 * j, 0, 4), n - j)
            j += wide
    while j < n:
        out[to + j] = x[i + stride * j]
        j += 1


@jit()
def take_planes(
    x: Any, plane: Any, size: Any, height: Any, width: Any, down: Any, right: Any, stride_h: Any, stride_w: Any,
    out: Any, to: Any, rows: Any, columns: Any, planes: Any,
) -> None:  # fmt: skip
    """out[k, i, j] = x[k, i stride_h + down, j stride_w + right]"""
    top, bottom = inside(down, stride_h, height, rows)
    lo, hi = inside(right, stride_w, width, columns)
    for _ in range(planes):
        clear(out, to, top * columns)
        clear(out, to + bottom * columns, (rows - bottom) * columns)
        row = to + top * columns
        at = plane + (top * stride_h + down) * width + lo * stride_w + right
        for _ in range(top, bottom):
            clear(out, row, lo)
            clear(out, row + hi, columns - hi)
            if stride_w == 1:
                copy_row(x, at, hi - lo, out, row + lo)
            else:
                take_row(x, at, size, stride_w, hi - lo, out, row + lo)
            row += columns
            at += stride_h * width
        plane += height * width
        to += rows * columns


@parallel(work="out", grain=GRAIN)
def gather_pieces(
    x: Any, stride_h: Any, stride_w: Any, step_h: Any, step_w: Any, top: Any, left: Any, out: Any
) -> None:
    samples, down, across, channels, rows, columns = out.shape
    height, width = x.shape[2:]
    fx, fout = x.reshape(-1), out.reshape(-1)
    runs = -(-channels // RUN)
    for run in prange(samples * down * across * runs):
        piece = run // runs
        n = piece // (down * across)
        p, q = piece // across % down, piece % across
        first = run % runs * RUN
        take_planes(
            pointer_to(fx), (n * channels + first) * height * width, fx.size, height, width,
            p * step_h - top, q * step_w - left, stride_h, stride_w,
            pointer_to(fout), (piece * channels + first) * rows * columns, rows, columns, min(RUN, channels - first),
        )  # fmt: skip


@jit(inline=True)
def put_two(x: Any, i: Any, k: Any, n: Any, out: Any, to: Any, end: Any) -> None:
    """n elements from i on and n from k on in turn; what lies behind them before ``end`` may change."""
    wide = lanes(x)
    j = 0
    while j < n and to + 2 * (j + wide) <= end:
        store_every2(out, to + 2 * j, load_first(x, i + j, n - j), load_first(x, k + j, n - j))
        j += wide
    while j < n:
        out[to + 2 * j] = x[i + j]
        out[to + 2 * j + 1] = x[k + j]
        j += 1


@jit()
def put_plane(
    x: Any, first: Any, down: Any, across: Any, piece: Any, rows: Any, columns: Any, stride_h: Any, stride_w: Any,
    step_h: Any, step_w: Any, top: Any, left: Any, out: Any, to: Any, height: Any, width: Any,
) -> None:  # fmt: skip
    """One plane of the result, row by row, of pieces ``piece`` apart."""
    done = width // 2 if across == 2 and stride_w == 2 and left == 0 else 0
    in_turn = stride_h > 1 or down == 1  # rows of the pieces, or else all of one before the next
    p, i = (top % stride_h, top // stride_h) if in_turn else (top // step_h, top % step_h)
    for r in range(height):
        row = first + p * across * piece + i * columns
        into = to + r * width
        if done:
            put_two(x, row, row + piece, done, out, into, to + height * width)
        if not done or width % 2:
            for q in range(across):
                right = q * step_w - left
                lo, hi = inside(right, stride_w, width, columns)
                lo = max(lo, done)
                if stride_w == 1:
                    copy_row(x, row + q * piece + lo, hi - lo, out, into + lo + right)
                else:
                    for j in range(lo, hi):
                        out[into + j * stride_w + right] = x[row + q * piece + j]
        if in_turn:
            p += 1
            if p == stride_h:
                p, i = 0, i + 1
        else:
            i += 1
            if i == step_h:
                p, i = p + 1, 0


@parallel(work="out", grain=GRAIN)
def scatter_pieces(
    pieces: Any, stride_h: Any, stride_w: Any, step_h: Any, step_w: Any, top: Any, left: Any, out: Any
) -> None:
    samples, down, across, channels, rows, columns = pieces.shape
    height, width = out.shape[2:]
    fp, fout = pieces.reshape(-1), out.reshape(-1)
    piece = channels * rows * columns
    for plane in prange(samples * channels):
        n = plane // channels
        put_plane(
            pointer_to(fp), n * down * across * piece + plane % channels * rows * columns, down, across, piece,
            rows, columns, stride_h, stride_w, step_h, step_w, top, left,
            pointer_to(fout), plane * height * width, height, width,
        )  # fmt: skip
