"""Windows that move over planes (P, H, W): maxima and means, and what becomes of their gradients.

A thread has one element of the result. Backward it goes through the windows that hold its element, in a fixed order, so
that nothing is scattered: window r holds row h where h = r s - p + i d for one of its rows i. Extents and strides of
windows are constants of the compiled code. No workspace is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.entry import blocks, device, entry
from tinygrad_bn.kernels.cuda.target import cuda
from tinygrad_bn.kernels.cuda.walks import NARROW
from tinygrad_bn.kernels.cuda.words import real

__all__ = ["max_pool", "max_pool_backward", "max_pool_places", "mean_pool", "mean_pool_backward"]

Array = np.ndarray[Any, Any]


@device
def place(i: Any, rows: Any, columns: Any, wide: Any) -> Any:
    """Plane, row and column of the element of that number; divided by 32 bits where these suffice."""
    if wide:
        line = i // columns
        p = line // rows
        return p, line - p * rows, i - line * columns
    short = np.uint32(np.uint32(i) // np.uint32(columns))
    line = np.int64(short)
    p = np.int64(np.uint32(short // np.uint32(rows)))
    return p, line - p * rows, i - line * columns


@entry(static="kh kw sh sw wide")
def _max_pool(
    x: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, dh: Any, dw: Any, out: Any, code: Any, height: Any,
    width: Any, rows: Any, columns: Any, n: Any, wide: Any,
) -> None:  # fmt: skip
    o = cuda.grid(1)
    while o < n:
        p, r, c = place(o, rows, columns, wide)
        top = r * sh - ph
        left = c * sw - pw
        best = real(-np.inf)
        at = kh * kw
        for i in range(kh):
            h = top + i * dh
            if h >= 0 and h < height:
                for j in range(kw):
                    w = left + j * dw
                    if w >= 0 and w < width:
                        v = x[(p * height + h) * width + w]
                        if at == kh * kw or v > best or v != v:
                            best = v
                            at = i * kw + j
        out[o] = best
        code[o] = at
        o += cuda.gridsize(1)


@entry(static="kh kw sh sw wide")
def _max_pool_backward(
    gy: Any, code: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, dh: Any, dw: Any, out: Any, height: Any,
    width: Any, rows: Any, columns: Any, n: Any, wide: Any,
) -> None:  # fmt: skip
    o = cuda.grid(1)
    while o < n:
        p, h, w = place(o, height, width, wide)
        total = 0.0
        for i in range(kh):
            down = h + ph - i * dh
            r = down // sh
            if down >= 0 and r * sh == down and r < rows:
                for j in range(kw):
                    along = w + pw - j * dw
                    c = along // sw
                    if along >= 0 and c * sw == along and c < columns:
                        at = (p * rows + r) * columns + c
                        if code[at] == i * kw + j:
                            total += gy[at]
        out[o] = total
        o += cuda.gridsize(1)


@entry(static="wide")
def _max_pool_places(
    code: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, dh: Any, dw: Any, width: Any, index: Any,
    rows: Any, columns: Any, n: Any, wide: Any,
) -> None:  # fmt: skip
    o = cuda.grid(1)
    while o < n:
        _, r, c = place(o, rows, columns, wide)
        at = np.int64(code[o])
        i = at // kw
        j = at - i * kw
        index[o] = (r * sh - ph + i * dh) * width + c * sw - pw + j * dw if at < kh * kw else -1
        o += cuda.gridsize(1)


@entry(static="kh kw sh sw wide")
def _mean_pool(
    x: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, counts: Any, across: Any, out: Any, height: Any,
    width: Any, rows: Any, columns: Any, n: Any, wide: Any,
) -> None:  # fmt: skip
    """Sums of rows, added up with Kahan's compensation."""
    o = cuda.grid(1)
    while o < n:
        p, r, c = place(o, rows, columns, wide)
        top = r * sh - ph
        left = c * sw - pw
        total = 0.0
        lost = 0.0
        plain = 0.0
        for i in range(kh):
            h = top + i
            if h >= 0 and h < height:
                line = 0.0
                for j in range(kw):
                    w = left + j
                    if w >= 0 and w < width:
                        line += x[(p * height + h) * width + w]
                y = line - lost
                t = total + y
                lost = (t - total) - y
                total = t
                plain += line
        total = total if total == total else plain
        out[o] = total / (real(counts[r]) * real(across[c]))
        o += cuda.gridsize(1)


@entry(static="kh kw sh sw wide")
def _mean_pool_backward(
    gy: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, counts: Any, across: Any, out: Any, height: Any,
    width: Any, rows: Any, columns: Any, n: Any, wide: Any,
) -> None:  # fmt: skip
    o = cuda.grid(1)
    while o < n:
        p, h, w = place(o, height, width, wide)
        total = 0.0
        for r in range(max((h + ph - kh + sh) // sh, 0), min((h + ph) // sh + 1, rows)):
            for c in range(max((w + pw - kw + sw) // sw, 0), min((w + pw) // sw + 1, columns)):
                total += gy[(p * rows + r) * columns + c] / (real(counts[r]) * real(across[c]))
        out[o] = total
        o += cuda.gridsize(1)


def max_pool(
    x: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int, work: Array, out: Array,
    code: Array,
) -> None:  # fmt: skip
    """The first of equal maxima, the last NaN where there is one; -inf where a window misses the plane."""
    n, sizes = out.size, (*x.shape[1:], *out.shape[1:])
    if n:
        _max_pool[blocks(n)](x, kh, kw, sh, sw, ph, pw, dh, dw, out, code, *sizes, n, n >= NARROW)


def max_pool_backward(
    gy: Array, code: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int, work: Array,
    out: Array,
) -> None:  # fmt: skip
    """Zeros (P, H, W) with each gy added at its maximum."""
    n, sizes = out.size, (*out.shape[1:], *gy.shape[1:])
    if n:
        _max_pool_backward[blocks(n)](gy, code, kh, kw, sh, sw, ph, pw, dh, dw, out, *sizes, n, n >= NARROW)


def max_pool_places(
    code: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int, width: int, index: Array
) -> None:
    """Where the maxima are in a plane of that width, row W + column; -1 where a window misses the plane."""
    n = code.size
    if n:
        window = kh, kw, sh, sw, ph, pw, dh, dw
        _max_pool_places[blocks(n)](code, *window, width, index, *code.shape[1:], n, n >= NARROW)


def mean_pool(
    x: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, rows: Array, columns: Array, work: Array, out: Array
) -> None:
    """Σ of the elements in the plane, over what ``rows`` (R,) and ``columns`` (C,), int64, say that a window counts."""
    n, sizes = out.size, (*x.shape[1:], *out.shape[1:])
    if n:
        _mean_pool[blocks(n)](x, kh, kw, sh, sw, ph, pw, rows, columns, out, *sizes, n, n >= NARROW)


def mean_pool_backward(
    gy: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, rows: Array, columns: Array, work: Array,
    out: Array,
) -> None:  # fmt: skip
    """gx[p, h, w] = Σ gy[p, r, c] / (m n) over the windows that hold (h, w)."""
    n, sizes = out.size, (*out.shape[1:], *gy.shape[1:])
    if n:
        _mean_pool_backward[blocks(n)](gy, kh, kw, sh, sw, ph, pw, rows, columns, out, *sizes, n, n >= NARROW)
