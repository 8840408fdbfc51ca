"""Rows of planes in workspace: laid out by phases (``kernels/windows.py``), rows of windows, rows of gradients.

Everything here takes pointers, ``pointer_to(array)``, and places in them; g is a ``Geometry``. Windows are loops over
registers without branches; literal sizes unroll them.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels import windows
from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.choices import (
    evens,
    odds,
    store_whole,
    store_whole_first,
    where_larger,
    where_larger_or_nan,
)
from tinygrad_bn.kernels.cpu.simd import (
    fma,
    lanes,
    largest,
    load,
    load_first,
    prefetch,
    splat,
    store,
    store_first,
    total,
    zeros,
)

line_size = jit()(windows.line_size)
phases = jit()(windows.phases)
AHEAD = 1024  # elements that are asked for ahead of their use

# ---------------------------------------------------------------------------------------------------- rows of the plane


@jit(inline=True)
def lay_next(x: Any, at: Any, width: Any, work: Any, to: Any, seen: Any) -> Any:
    """A row under windows of stride 1: a copy."""
    size, nothing = lanes(x), zeros(x)
    whole = width // size * size
    for w in range(0, whole, size):
        v = load(x, at + w)
        prefetch(x, at + w + AHEAD)
        store(work, to + w, v)
        seen = fma(v, nothing, seen)
    if whole < width:
        v = load_first(x, at + whole, width - whole)
        store_first(work, to + whole, v, width - whole)
        seen = fma(v, nothing, seen)
    return seen


@jit(inline=True)
def lay_every2(x: Any, at: Any, width: Any, work: Any, even: Any, odd: Any, seen: Any) -> Any:
    """A row under windows of stride 2: even columns and odd ones."""
    size, nothing = lanes(x), zeros(x)
    whole = width // (2 * size) * size
    for u in range(0, whole, size):
        v, w = load(x, at + 2 * u), load(x, at + 2 * u + size)
        prefetch(x, at + 2 * u + AHEAD)
        prefetch(x, at + 2 * u + size + AHEAD)
        store(work, even + u, evens(v, w))
        store(work, odd + u, odds(v, w))
        seen = fma(v + w, nothing, seen)
    n = width - 2 * whole
    if n:
        v, w = load_first(x, at + 2 * whole, n), load_first(x, at + 2 * whole + size, n - size)
        store_first(work, even + whole, evens(v, w), (n + 1) // 2)
        store_first(work, odd + whole, odds(v, w), n // 2)
        seen = fma(v + w, nothing, seen)
    return seen


@jit()
def lay_rows(x: Any, at: Any, rows: Any, g: Any, work: Any, to: Any, line: Any) -> Any:
    """Lay rows of the plane from x[at] on out from work[to] on; return whether they are free of NaN and infinities.

    A sum that overflows counts as infinite: what is not finite is only gone through with more care.
    """
    seen = zeros(x)
    stride = phases(g) * line
    even, odd = g.pw % 2 * line + g.pw // 2, (g.pw + 1) % 2 * line + (g.pw + 1) // 2
    for _ in range(rows):
        if g.sw == 1:
            seen = lay_next(x, at, g.width, work, to + g.pw, seen)
        elif g.sw == 2:
            seen = lay_every2(x, at, g.width, work, to + even, to + odd, seen)
        else:
            for q in range(phases(g)):
                u = max(0, -((q - g.pw) // g.sw))
                for w in range(u * g.sw + q - g.pw, g.width, g.sw):
                    work[to + q * line + u] = x[at + w]
                    seen = seen + (x[at + w] - x[at + w])
                    u += 1
        at += g.width
        to += stride
    return total(seen) == 0


# ------------------------------------------------------------------------------------------------------ rows of windows


@jit(inline=True)
def max_rows(
    work: Any, at: Any, down: Any, rows: Any, first: Any, last: Any, line: Any, stride: Any, kw: Any, dh: Any, sw: Any,
    dw: Any, columns: Any, lowest: Any, unit: Any, careful: Any, out: Any, code: Any, o: Any,
) -> None:  # fmt: skip
    """Rows of maxima and their codes, ``down`` apart in ``work``. Of each window the rows first ≤ i < last count;
    work[c] is the first column of window c in the plane. ``careful`` minds NaN."""
    size = lanes(work)
    across, ahead = dw % sw, dw // sw
    for _ in range(rows):
        for c in range(0, columns, size):
            tap = type(unit)(first * kw)
            best, found = splat(lowest), load(work, c) + tap
            for i in range(first, last):
                place, q = at + i * dh * stride + c, 0
                for _ in range(kw):
                    v = load(work, place)
                    if careful:
                        found = where_larger_or_nan(v, best, splat(tap), found)
                        best = where_larger_or_nan(v, best, v, best)
                    else:
                        found = where_larger(v, best, splat(tap), found)
                        best = largest(best, v)
                    tap += unit
                    q += across
                    place += ahead + across * line
                    if q >= sw:
                        q -= sw
                        place += 1 - sw * line
            n = columns - c
            prefetch(out, o + c + AHEAD)
            if n >= size:
                store(out, o + c, best)
                store_whole(code, o + c, found)
            else:
                store_first(out, o + c, best, n)
                store_whole_first(code, o + c, found, n)
        at += down
        o += columns


@jit()
def inner_maxima(
    work: Any, at: Any, rows: Any, g: Any, line: Any, lowest: Any, unit: Any, out: Any, code: Any, o: Any
) -> None:
    """Rows of maxima whose windows have all their rows in the plane, of finite numbers: the usual windows unrolled."""
    stride, n = phases(g) * line, g.columns
    down = g.sh * stride
    small = g.kh == g.kw and g.dh == 1 and g.dw == 1
    if small and g.kw == 2 and g.sw == 2:
        max_rows(work, at, down, rows, 0, 2, line, stride, 2, 1, 2, 1, n, lowest, unit, False, out, code, o)
    elif small and g.kw == 3 and g.sw == 2:
        max_rows(work, at, down, rows, 0, 3, line, stride, 3, 1, 2, 1, n, lowest, unit, False, out, code, o)
    elif small and g.kw == 3 and g.sw == 1:
        max_rows(work, at, down, rows, 0, 3, line, stride, 3, 1, 1, 1, n, lowest, unit, False, out, code, o)
    else:
        max_rows(
            work, at, down, rows, 0, g.kh, line, stride, g.kw, g.dh, g.sw, g.dw, n, lowest, unit, False, out, code, o
        )


@jit()
def outer_maxima(
    work: Any, at: Any, first: Any, last: Any, g: Any, line: Any, lowest: Any, unit: Any, out: Any, code: Any, o: Any
) -> None:
    """A row of maxima of any numbers, whose windows' rows from ``first`` to ``last`` are in the plane."""
    max_rows(
        work, at, 0, 1, first, last, line, phases(g) * line, g.kw, g.dh, g.sw, g.dw, g.columns, lowest, unit, True,
        out, code, o,
    )  # fmt: skip


@jit(inline=True)
def mean_rows(
    work: Any, at: Any, down: Any, rows: Any, first: Any, last: Any, line: Any, stride: Any, kw: Any, sw: Any,
    columns: Any, counts: Any, r: Any, unit: Any, out: Any, o: Any,
) -> None:  # fmt: skip
    """Rows of means, the r-th first; what a window counts is counts[r] work[c]."""
    size = lanes(work)
    for k in range(rows):
        count = type(unit)(counts[r + k])
        for c in range(0, columns, size):
            added = zeros(work)
            for i in range(first, last):
                place, q = at + i * stride + c, 0
                for _ in range(kw):
                    added = added + load(work, place)
                    q += 1
                    place += line
                    if q == sw:
                        q = 0
                        place += 1 - sw * line
            added = added / (load(work, c) * count)
            prefetch(out, o + c + AHEAD)
            if columns - c >= size:
                store(out, o + c, added)
            else:
                store_first(out, o + c, added, columns - c)
        at += down
        o += columns


@jit()
def means(
    work: Any, at: Any, rows: Any, first: Any, last: Any, g: Any, line: Any, counts: Any, r: Any, unit: Any, out: Any,
    o: Any,
) -> None:  # fmt: skip
    """Rows of means whose windows' rows from ``first`` to ``last`` are in the plane: the usual windows unrolled."""
    stride, n = phases(g) * line, g.columns
    down = g.sh * stride
    if first == 0 and last == 3 and g.kw == 3 and g.sw == 1:
        mean_rows(work, at, down, rows, 0, 3, line, stride, 3, 1, n, counts, r, unit, out, o)
    elif first == 0 and last == 2 and g.kw == 2 and g.sw == 2:
        mean_rows(work, at, down, rows, 0, 2, line, stride, 2, 2, n, counts, r, unit, out, o)
    else:
        mean_rows(work, at, down, rows, first, last, line, stride, g.kw, g.sw, n, counts, r, unit, out, o)
