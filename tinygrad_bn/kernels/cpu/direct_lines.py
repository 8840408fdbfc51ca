"""The lines of a strip for direct convolutions: runs of the input, shifted, padded and split by the stride.

    line[i, j] = x[y0 + i s, x0 + j s'], 0 outside of x

See ``kernels/direct.py``. Rows are written by the register, in the order in which they lie: what is written behind the
end of one is the beginning of what is written next.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.convolution import inside
from tinygrad_bn.kernels.cpu.shuffles import load_every
from tinygrad_bn.kernels.cpu.simd import first, lanes, load, load_first, pointer_to, store, zeros


@jit(inline=True)
def clear(a: Any, at: Any, first: Any, last: Any) -> None:
    """Zeros from a[at + first] to a[at + last], and perhaps behind it, by the register."""
    for j in range(first, last, lanes(a)):
        store(a, at + j, zeros(a))


@jit(inline=True)
def copy_run(x: Any, at: Any, out: Any, to: Any, n: Any) -> Any:
    """out[to + j] = x[at + j] for j < n, then zeros to the end of the register; returns how many were written."""
    size = lanes(x)
    j = 0
    while j + size <= n:
        store(out, to + j, load(x, at + j))
        j += size
    if j < n:
        store(out, to + j, load_first(x, at + j, n - j))
        j += size
    return j


@jit(inline=True)
def copy_every(x: Any, at: Any, step: Any, end: Any, out: Any, to: Any, n: Any) -> Any:
    """The same of x[at + j step]; nothing of x is read from ``end`` on."""
    size = lanes(x)
    j = 0
    if step == 2:
        while j + size <= n and at + 2 * (j + size) <= end:
            store(out, to + j, load_every(x, at + 2 * j, 0, 2))
            j += size
        if j < n and at + 2 * (j + size) <= end:
            store(out, to + j, first(load_every(x, at + 2 * j, 0, 2), n - j))
            j += size
    while j < n:
        rest = min(size, n - j)
        store(out, to + j, zeros(out))
        for k in range(j, j + rest):
            out[to + k] = x[at + k * step]
        j += size
    return j


@jit(inline=True)
def fill_whole_rows(x: Any, plane: Any, extents: Any, y0: Any, x0: Any, rows: Any, out: Any, to: Any) -> None:
    """As ``fill_line``, of rows as long as the plane's: one run, in which what wrapped around is cleared."""
    height, width = extents
    lo, hi = min(rows, max(0, -y0)), max(0, min(rows, height - y0))
    clear(out, to, 0, lo * width)
    start, stop = (y0 + lo) * width + x0, min(height * width, (y0 + hi) * width + x0)
    skip = max(0, -start)
    copy_run(x, plane + start + skip, out, to + lo * width + skip, stop - start - skip)
    for i in range(lo, hi):
        for j in range(i * width, i * width - x0):
            out[to + j] = 0
        for j in range((i + 1) * width - x0, (i + 1) * width):
            out[to + j] = 0
    clear(out, to, hi * width, rows * width)


@jit(inline=True)
def columns_inside(x0: Any, stride: Any, width: Any, columns: Any) -> Any:
    """``inside``, of which a stride of 1 needs no division."""
    if stride == 1:
        lo = min(columns, max(0, -x0))
        return lo, max(lo, min(columns, width - x0))
    return inside(x0, stride, width, columns)


@jit(inline=True)
def fill_line(
    x: Any, plane: Any, end: Any, extents: Any, y0: Any, x0: Any, stride: Any, rows: Any, columns: Any, pitch: Any,
    out: Any, to: Any,
) -> None:  # fmt: skip
    """out[i pitch + j] = x[y0 + i s, x0 + j s'] of one plane, 0 outside of it; x has ``end`` elements in all.

    By the register: what is written behind the end of a row is the beginning of what is written next.
    """
    height, width = extents
    lo, hi = columns_inside(x0, stride[1], width, columns)
    if stride[0] == 1 and stride[1] == 1 and columns == width and pitch == width and lo < hi:
        fill_whole_rows(x, plane, extents, y0, x0, rows, out, to)
        return
    for i in range(rows):
        y = y0 + i * stride[0]
        if 0 <= y < height and lo < hi:
            clear(out, to, 0, lo)
            at = plane + y * width + x0 + lo * stride[1]
            if stride[1] == 1:
                done = copy_run(x, at, out, to + lo, hi - lo)
            else:
                done = copy_every(x, at, stride[1], end, out, to + lo, hi - lo)
            clear(out, to, lo + done, columns)
        else:
            clear(out, to, 0, columns)
        to += pitch


@jit()
def fill_strip(
    x: Any, plane: Any, extents: Any, stride: Any, lines: Any, short: Any, origin: Any, channels: Any, samples: Any,
    sample_step: Any, elements: Any, points: Any, out: Any,
) -> None:  # fmt: skip
    """Copy the lines of a strip, whose rows and columns are ``short`` by so many, channel after channel.

    ``plane``: where the first channel of the first sample begins; ``points``: how many of the grid a sample has.
    """
    for k in range(channels):
        for line in range(lines.shape[0]):
            for m in range(samples):
                fill_line(
                    pointer_to(x), plane + m * sample_step + k * extents[0] * extents[1], x.size, extents,
                    origin[0] * stride[0] + lines[line, 0], origin[1] * stride[1] + lines[line, 1], stride,
                    lines[line, 2] - short[0], lines[line, 3] - short[1], lines[line, 3],
                    pointer_to(out), k * elements + lines[line, 4] + m * points,
                )  # fmt: skip
