"""Rows of gradients of pooling, gathered: every element of gx adds up what the windows that hold it send.

The windows c with an element j at a place t of the plane, j d + s c = t, are an arithmetic progression: from one to the
next j grows by s / gcd(s, d) and c falls by d / gcd(s, d). As in ``window_rows.py`` everything takes pointers.
"""

from __future__ import annotations

from math import gcd
from typing import Any

from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.bn_rows import LARGE
from tinygrad_bn.kernels.cpu.choices import load_whole, load_whole_first, where_equal, zip_high, zip_low
from tinygrad_bn.kernels.cpu.simd import lanes, load, load_first, prefetch, splat, store, store_first, zeros
from tinygrad_bn.kernels.cpu.streams import misaligned, stream

AHEAD = 1024  # elements that are asked for ahead of their use


@jit(inline=True)
def put(out: Any, i: Any, v: Any, past: Any) -> None:
    """Write a register of results: past the caches, or to them."""
    if past:
        stream(out, i, v)
    else:
        prefetch(out, i + AHEAD)
        store(out, i, v)


@jit()
def passes(out: Any) -> Any:
    """Whether results go past the caches: LARGE ones of which every register lies at a multiple of its size."""
    return out.nbytes > LARGE and out.shape[2] % lanes(out) == 0 and misaligned(out) == 0


@jit()
def progression(t: Any, k: Any, s: Any, d: Any, step: Any) -> Any:
    """The elements i < k of windows that are at place t, ``step`` apart: the first, its window, how many there are."""
    for i in range(min(k, s)):
        if (t - i * d) % s == 0:
            return i, (t - i * d) // s, (k - 1 - i) // step + 1
    return 0, 0, 0


@jit()
def progressions(g: Any) -> Any:
    """What is the same in all planes: by how much elements grow and windows fall, along the rows and along the columns;
    the progressions of the first columns of two phases."""
    common_h, common_w = gcd(g.sh, g.dh), gcd(g.sw, g.dw)
    step = g.sw // common_w
    even, odd = progression(g.pw, g.kw, g.sw, g.dw, step), progression(g.pw + 1, g.kw, g.sw, g.dw, step)
    return (g.sh // common_h, g.dh // common_h), (step, g.dw // common_w), even, odd


@jit()
def lay_codes(gy: Any, code: Any, at: Any, rows: Any, n: Any, work: Any, to: Any, codes: Any, line: Any) -> None:
    """Rows of gradients into work[to …], their codes into work[codes + to …]."""
    size, like = lanes(work), zeros(work)
    whole = n // size * size
    rest = n - whole
    for _ in range(rows):
        for c in range(0, whole, size):
            store(work, to + c, load(gy, at + c))
            prefetch(gy, at + c + AHEAD)
            store(work, codes + to + c, load_whole(code, at + c, like))
        if rest:
            store_first(work, to + whole, load_first(gy, at + whole, rest), rest)
            store_first(work, codes + to + whole, load_whole_first(code, at + whole, rest, like), rest)
        at += n
        to += line


@jit()
def lay_shares(
    gy: Any, at: Any, r: Any, rows: Any, n: Any, counts: Any, unit: Any, work: Any, columns: Any, to: Any, line: Any
) -> None:
    """Rows of gradients, the r-th first, divided by what their windows count, counts[r] work[columns + c], into
    work[to …]."""
    size = lanes(work)
    for k in range(r, r + rows):
        count = type(unit)(counts[k])
        for c in range(0, n, size):
            prefetch(gy, at + c + AHEAD)
            share = load_first(gy, at + c, n - c) / (load(work, columns + c) * count)
            store_first(work, to + c, share, n - c)
        at += n
        to += line


@jit(inline=True)
def gathered(
    work: Any, at: Any, codes: Any, rows: Any, row_fall: Any, many: Any, fall: Any, tap: Any, row_tap: Any,
    column_tap: Any, every: Any,
) -> Any:  # fmt: skip
    """Σ work[place] over ``rows`` times ``many`` windows; of maxima, not ``every`` one, but where the code
    work[codes + place] is the element's."""
    added = zeros(work)
    for _ in range(rows):
        place, k = at, tap
        for _ in range(many):
            v = load(work, place)
            added = added + v if every else where_equal(load(work, codes + place), splat(k), added + v, added)
            place -= fall
            k += column_tap
        at -= row_fall
        tap += row_tap
    return added


@jit(inline=True)
def gather_next(
    work: Any, at: Any, line: Any, lines: Any, codes: Any, rows: Any, row_fall: Any, many: Any, fall: Any, tap: Any,
    row_tap: Any, unit: Any, every: Any, past: Any, out: Any, o: Any, down: Any, width: Any,
) -> None:  # fmt: skip
    """Rows under windows of stride 1."""
    size = lanes(work)
    for _ in range(lines):
        for w in range(0, width, size):
            v = gathered(work, at + w, codes, rows, row_fall, many, fall, tap, row_tap, unit, every)
            if width - w >= size:
                put(out, o + w, v, past)
            else:
                store_first(out, o + w, v, width - w)
        at += line
        o += down


@jit(inline=True)
def gather_every2(
    work: Any, at0: Any, at1: Any, line: Any, lines: Any, codes: Any, rows: Any, row_fall: Any, n0: Any, n1: Any,
    fall: Any, tap0: Any, tap1: Any, row_tap: Any, column_tap: Any, every: Any, past: Any, out: Any, o: Any, down: Any,
    width: Any,
) -> None:  # fmt: skip
    """Rows under windows of stride 2: even columns, held by n0 windows, and odd ones, held by n1."""
    size = lanes(work)
    for _ in range(lines):
        for w in range(0, width, 2 * size):
            u, n = w // 2, width - w
            v0 = gathered(work, at0 + u, codes, rows, row_fall, n0, fall, tap0, row_tap, column_tap, every)
            v1 = gathered(work, at1 + u, codes, rows, row_fall, n1, fall, tap1, row_tap, column_tap, every)
            if n >= size:
                put(out, o + w, zip_low(v0, v1), past)
            else:
                store_first(out, o + w, zip_low(v0, v1), n)
            if n >= 2 * size:
                put(out, o + w + size, zip_high(v0, v1), past)
            else:
                store_first(out, o + w + size, zip_high(v0, v1), n - size)
        at0 += line
        at1 += line
        o += down


@jit(inline=True)
def gather_phases(
    work: Any, at: Any, line: Any, lines: Any, codes: Any, spare: Any, rows: Any, row_fall: Any, tap: Any, row_tap: Any,
    g: Any, step: Any, fall: Any, unit: Any, every: Any, out: Any, o: Any, down: Any,
) -> None:  # fmt: skip
    """Rows under windows of any stride, phase by phase."""
    size, column_tap = lanes(work), type(unit)(step)
    for _ in range(lines):
        for q in range(g.sw):
            j, window, many = progression(q, g.kw, g.sw, g.dw, step)
            tap_j = tap + type(unit)(j)
            for u in range(max(0, -((q - g.pw) // g.sw)), (g.width - 1 + g.pw - q) // g.sw + 1, size):
                start = at + u + window
                v = gathered(work, start, codes, rows, row_fall, many, fall, tap_j, row_tap, column_tap, every)
                store(work, spare, v)
                w = u * g.sw + q - g.pw
                for lane in range(min(size, (g.width - 1 - w) // g.sw + 1)):
                    out[o + w + lane * g.sw] = work[spare + lane]
        at += line
        o += down


@jit(inline=True)
def gather_rows(
    work: Any, at: Any, line: Any, lines: Any, codes: Any, spare: Any, rows: Any, row_fall: Any, tap: Any, row_tap: Any,
    g: Any, along: Any, unit: Any, every: Any, past: Any, out: Any, o: Any,
) -> None:  # fmt: skip
    """Rows of gradients, sh apart, each reached by ``rows`` rows of windows; window 0 of the last of those is at
    work[at], one line further for the next row. The usual windows are unrolled."""
    down, fall = g.sh * g.width, along[1][1]
    if g.sw == 1:
        at += g.pw
        if rows == 3 and g.kw == 3:
            gather_next(
                work, at, line, lines, codes, 3, row_fall, 3, fall, tap, row_tap, unit, every, past, out, o,
                down, g.width,
            )  # fmt: skip
        else:
            gather_next(
                work, at, line, lines, codes, rows, row_fall, g.kw, fall, tap, row_tap, unit, every, past, out, o, down,
                g.width,
            )  # fmt: skip
    elif g.sw == 2:
        step, (j0, u0, n0), (j1, u1, n1) = type(unit)(along[1][0]), along[2], along[3]
        at0, at1, tap0, tap1, n = at + u0, at + u1, tap + type(unit)(j0), tap + type(unit)(j1), g.width
        if rows == 1 and n0 == 1 and n1 == 1:
            gather_every2(
                work, at0, at1, line, lines, codes, 1, row_fall, 1, 1, fall, tap0, tap1, row_tap, step, every, past,
                out, o, down, n,
            )  # fmt: skip
        elif rows == 1 and n0 == 1 and n1 == 2:
            gather_every2(
                work, at0, at1, line, lines, codes, 1, row_fall, 1, 2, fall, tap0, tap1, row_tap, step, every, past,
                out, o, down, n,
            )  # fmt: skip
        elif rows == 2 and n0 == 1 and n1 == 2:
            gather_every2(
                work, at0, at1, line, lines, codes, 2, row_fall, 1, 2, fall, tap0, tap1, row_tap, step, every, past,
                out, o, down, n,
            )  # fmt: skip
        else:
            gather_every2(
                work, at0, at1, line, lines, codes, rows, row_fall, n0, n1, fall, tap0, tap1, row_tap, step, every,
                past, out, o, down, n,
            )  # fmt: skip
    else:
        gather_phases(
            work, at, line, lines, codes, spare, rows, row_fall, tap, row_tap, g, along[1][0], fall, unit, every, out,
            o, down,
        )  # fmt: skip


@jit(inline=True)
def gather_band(
    work: Any, shift: Any, top: Any, line: Any, codes: Any, spare: Any, g: Any, along: Any, h0: Any, h1: Any,
    unit: Any, every: Any, past: Any, out: Any, plane: Any,
) -> None:  # fmt: skip
    """The rows h0 ≤ h < h1 of gx: for each remainder of h + ph by sh those that all rows of their windows reach
    together, those at the plane's edges one by one. Row ``top`` of the results is at work[shift]; ``along``: the
    geometry's ``progressions``."""
    step, fall = along[0]
    row_fall, row_tap = fall * line, type(unit)(step * g.kw)
    for start in range(h0, min(h1, h0 + g.sh)):
        i, r, many = progression(start + g.ph, g.kh, g.sh, g.dh, step)
        h = start
        while h < h1:
            lines, element, window, rows = 1, i, r, many
            while rows > 0 and window >= g.rows:
                element, window, rows = element + step, window - fall, rows - 1
            if window < 0:
                rows = 0
            elif window < (rows - 1) * fall:
                rows = window // fall + 1
            elif rows == many and window < g.rows:
                lines = min(g.rows - window, (h1 - 1 - h) // g.sh + 1)
            gather_rows(
                work, (window - top) * line + shift, line, lines, codes, spare, rows, row_fall,
                type(unit)(element * g.kw), row_tap, g, along, unit, every, past, out, plane + h * g.width,
            )  # fmt: skip
            h += lines * g.sh
            r += lines
