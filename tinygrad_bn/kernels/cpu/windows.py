"""Windows that move over planes (P, H, W): maxima and means, and what becomes of their gradients.

    max_pool     y[p, r, c] = max over i, j of x[p, r sh - ph + i dh, c sw - pw + j dw], where that lies in the plane
    mean_pool    y[p, r, c] = Σ over i, j of x[p, r sh - ph + i, c sw - pw + j] in the plane / (m_r n_c)

A band of rows is laid out in workspace by phases (``kernels/windows.py``), padding included: what neighbouring windows
read lies side by side whatever the stride. The place of a maximum is kept as its code, i kw + j. Backward the rows of
gy are laid out, and every element of gx gathers what the windows that hold it send. Planes are the shares of the pool;
in each the order of additions is fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels import windows
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.simd import pointer_to
from tinygrad_bn.kernels.cpu.streams import settle
from tinygrad_bn.kernels.cpu.window_back import gather_band, lay_codes, lay_shares, passes, progressions
from tinygrad_bn.kernels.cpu.window_rows import inner_maxima, lay_rows, line_size, means, outer_maxima, phases
from tinygrad_bn.kernels.windows import BAND, Geometry

GRAIN = 1 << 15
back_rows = jit()(windows.back_rows)
back_line = jit()(windows.back_line)


@jit()
def inner_rows(g: Any) -> Any:
    """From and to which row of results the windows have all their rows in the plane."""
    first = -(-g.ph // g.sh)
    return first, max(first, (g.height - 1 - (g.kh - 1) * g.dh + g.ph) // g.sh + 1)


# -------------------------------------------------------------------------------------------------------------- maxima


@jit()
def first_columns(work: Any, g: Any) -> Any:
    """work[c] = the first element of window c that is in the plane, -1 where none is; return whether one has none."""
    missing = False
    for c in range(g.columns):
        left = c * g.sw - g.pw
        j = max(0, -(left // g.dw))
        inside = j < g.kw and left + j * g.dw < g.width
        work[c] = j if inside else -1
        missing |= not inside
    return missing


@jit()
def max_plane(
    x: Any, plane: Any, g: Any, inner: Any, missing: Any, lowest: Any, unit: Any, work: Any, line: Any, out: Any,
    code: Any, result: Any,
) -> None:  # fmt: skip
    """The maxima of a plane, band by band; ``missing``: some windows' columns are all beside the plane."""
    stride = phases(g) * line
    for r0 in range(0, g.rows, BAND):
        r1 = min(g.rows, r0 + BAND)
        top = max(0, r0 * g.sh - g.ph)
        bottom = min(g.height, (r1 - 1) * g.sh - g.ph + (g.kh - 1) * g.dh + 1)
        finite = lay_rows(x, plane + top * g.width, bottom - top, g, work, line, line)
        r = r0
        while r < r1:
            start = r * g.sh - g.ph
            at, o = line + (start - top) * stride, result + r * g.columns
            if finite and inner[0] <= r < inner[1]:
                rows = min(r1, inner[1]) - r
                inner_maxima(work, at, rows, g, line, lowest, unit, out, code, o)
                r += rows
            else:
                first, last = max(0, -(start // g.dh)), min(g.kh, (g.height - 1 - start) // g.dh + 1)
                outer_maxima(work, at, first, last, g, line, lowest, unit, out, code, o)
                if last <= first:
                    for c in range(g.columns):
                        code[o + c] = g.kh * g.kw
                r += 1
    if missing:
        for c in range(g.columns):
            if work[c] < 0:
                for r in range(g.rows):
                    code[result + r * g.columns + c] = g.kh * g.kw


@parallel(work=lambda x, kh, kw, sh, sw, ph, pw, dh, dw, work, out, code: out.size * kh * kw, grain=GRAIN)
def max_pool(
    x: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, dh: Any, dw: Any, work: Any, out: Any, code: Any
) -> None:
    planes, height, width = x.shape
    rows, columns = out.shape[1:]
    g = Geometry(height, width, rows, columns, kh, kw, sh, sw, ph, pw, dh, dw)
    parts = work.shape[0]
    line, inner = line_size(g), inner_rows(g)
    lowest, unit = x.dtype.type(-np.inf), x.dtype.type(1)
    for k in prange(parts):
        part = work[k]
        part[:] = lowest
        missing = first_columns(part, g)
        for p in range(planes * k // parts, planes * (k + 1) // parts):
            max_plane(
                pointer_to(x), p * height * width, g, inner, missing, lowest, unit, pointer_to(part), line,
                pointer_to(out), pointer_to(code), p * rows * columns,
            )  # fmt: skip


@jit()
def spread_maxima(
    gy: Any, code: Any, result: Any, g: Any, along: Any, unit: Any, work: Any, line: Any, codes: Any, past: Any,
    out: Any, plane: Any,
) -> None:  # fmt: skip
    """gx of a plane, band by band; codes are laid out from work[codes] on."""
    shift = (g.kw - 1) * g.dw // g.sw
    for h0 in range(0, g.height, BAND * g.sh):
        h1 = min(g.height, h0 + BAND * g.sh)
        top = max(0, -(((g.kh - 1) * g.dh - h0 - g.ph) // g.sh))
        rows = min(g.rows, (h1 - 1 + g.ph) // g.sh + 1) - top
        lay_codes(gy, code, result + top * g.columns, rows, g.columns, work, shift, codes, line)
        gather_band(work, shift, top, line, codes, 2 * codes, g, along, h0, h1, unit, False, past, out, plane)


@parallel(work="out", grain=GRAIN)
def max_pool_backward(
    gy: Any, code: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, dh: Any, dw: Any, work: Any, out: Any
) -> None:
    planes, height, width = out.shape
    rows, columns = gy.shape[1:]
    g = Geometry(height, width, rows, columns, kh, kw, sh, sw, ph, pw, dh, dw)
    parts = work.shape[0]
    line = back_line(g)
    codes = line * back_rows(g)
    unit, past = out.dtype.type(1), passes(out)
    for k in prange(parts):
        part, along = work[k], progressions(g)
        part[:] = -1  # no code, ahead of rows and behind them
        for p in range(planes * k // parts, planes * (k + 1) // parts):
            spread_maxima(
                pointer_to(gy), pointer_to(code), p * rows * columns, g, along, unit, pointer_to(part), line, codes,
                past, pointer_to(out), p * height * width,
            )  # fmt: skip
        settle()


@parallel(work="index", grain=GRAIN)
def max_pool_places(
    code: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, dh: Any, dw: Any, width: Any, index: Any
) -> None:
    for p in prange(code.shape[0]):
        for r in range(code.shape[1]):
            for c in range(code.shape[2]):
                tap = np.int64(code[p, r, c])
                i, j = tap // kw, tap % kw
                place = (r * sh - ph + i * dh) * width + c * sw - pw + j * dw
                index[p, r, c] = place if tap < kh * kw else -1


# --------------------------------------------------------------------------------------------------------------- means


@jit()
def mean_plane(
    x: Any, plane: Any, g: Any, inner: Any, counts: Any, unit: Any, work: Any, line: Any, out: Any, result: Any
) -> None:
    """The means of a plane, band by band."""
    stride = phases(g) * line
    for r0 in range(0, g.rows, BAND):
        r1 = min(g.rows, r0 + BAND)
        top = max(0, r0 * g.sh - g.ph)
        bottom = min(g.height, (r1 - 1) * g.sh - g.ph + g.kh)
        lay_rows(x, plane + top * g.width, bottom - top, g, work, line, line)
        r = r0
        while r < r1:
            start = r * g.sh - g.ph
            first, last = max(0, -start), min(g.kh, g.height - start)
            rows = min(r1, inner[1]) - r if inner[0] <= r < inner[1] else 1
            at, o = line + (start - top) * stride, result + r * g.columns
            means(work, at, rows, first, last, g, line, counts, r, unit, out, o)
            r += rows


@parallel(work=lambda x, kh, kw, sh, sw, ph, pw, rows, columns, work, out: out.size * kh * kw, grain=GRAIN)
def mean_pool(
    x: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, rows: Any, columns: Any, work: Any, out: Any
) -> None:
    planes, height, width = x.shape
    g = Geometry(height, width, rows.size, columns.size, kh, kw, sh, sw, ph, pw, 1, 1)
    parts = work.shape[0]
    line, inner = line_size(g), inner_rows(g)
    unit = x.dtype.type(1)
    for k in prange(parts):
        part = work[k]
        part[:] = 0
        part[: columns.size] = columns
        for p in range(planes * k // parts, planes * (k + 1) // parts):
            mean_plane(
                pointer_to(x), p * height * width, g, inner, pointer_to(rows), unit, pointer_to(part), line,
                pointer_to(out), p * g.rows * g.columns,
            )  # fmt: skip


@jit()
def spread_means(
    gy: Any, result: Any, g: Any, along: Any, counts: Any, unit: Any, work: Any, line: Any, spare: Any, past: Any,
    out: Any, plane: Any,
) -> None:  # fmt: skip
    """gx of a plane, band by band; behind the spare line is what the columns count."""
    shift = (g.kw - 1) // g.sw
    for h0 in range(0, g.height, BAND * g.sh):
        h1 = min(g.height, h0 + BAND * g.sh)
        top = max(0, -((g.kh - 1 - h0 - g.ph) // g.sh))
        rows = min(g.rows, (h1 - 1 + g.ph) // g.sh + 1) - top
        lay_shares(gy, result + top * g.columns, top, rows, g.columns, counts, unit, work, spare + line, shift, line)
        gather_band(work, shift, top, line, 0, spare, g, along, h0, h1, unit, True, past, out, plane)


@parallel(work="out", grain=GRAIN)
def mean_pool_backward(
    gy: Any, kh: Any, kw: Any, sh: Any, sw: Any, ph: Any, pw: Any, rows: Any, columns: Any, work: Any, out: Any
) -> None:
    planes, height, width = out.shape
    g = Geometry(height, width, rows.size, columns.size, kh, kw, sh, sw, ph, pw, 1, 1)
    parts = work.shape[0]
    line = back_line(g)
    spare = line * back_rows(g)
    unit, past = out.dtype.type(1), passes(out)
    for k in prange(parts):
        part, along = work[k], progressions(g)
        part[:] = 0
        part[spare + line : spare + line + columns.size] = columns
        for p in range(planes * k // parts, planes * (k + 1) // parts):
            spread_means(
                pointer_to(gy), p * g.rows * g.columns, g, along, pointer_to(rows), unit, pointer_to(part), line,
                spare, past, pointer_to(out), p * height * width,
            )  # fmt: skip
        settle()
