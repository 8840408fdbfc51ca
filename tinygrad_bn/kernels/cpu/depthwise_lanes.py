"""Planes in the lanes: pictures to strips and back, weights to lanes, and the taps of a kernel in a strip.

See ``depthwise.py``. A unit is a group of one sample; a block is as many units as a register has lanes.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels import depthwise as sizes
from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.depthwise_tiles import LONGEST
from tinygrad_bn.kernels.cpu.shuffles import spread, spread_first, transpose, transpose_first
from tinygrad_bn.kernels.cpu.simd import lanes, prefetch, store, zeros

before = jit(inline=True)(sizes.before)
AHEAD = 128  # elements: planes are too many streams for the processor to run ahead by itself


@jit()
def period_of(groups: Any, size: Any) -> Any:
    """After how many blocks the lanes hold the same groups again."""
    a, b = groups, size
    while b:
        a, b = b, a % b
    return groups // a


@jit()
def put_places(table: Any, rows: Any, width: Any, left: Any, columns: Any, size: Any) -> None:
    """Where the pixels of a picture's rows belong in a strip of so many columns."""
    for r in range(rows):
        for c in range(width):
            table[r * width + c] = (r * columns + left + c) * size


@jit()
def put_rows(
    x: Any, plane: Any, pitch: Any, count: Any, height: Any, width: Any, first: Any, rows: Any, strip: Any, to: Any,
    columns: Any, table: Any,
) -> None:  # fmt: skip
    """Rows of ``count`` planes, ``pitch`` apart, from row ``first`` on, into a strip; zeros for rows outside."""
    size = lanes(x)
    top = min(rows, max(0, -first))
    bottom = max(top, min(rows, height - first))
    for j in range(top * columns):
        store(strip, to + j * size, zeros(strip))
    for j in range(bottom * columns, rows * columns):
        store(strip, to + j * size, zeros(strip))
    put_pixels(
        x, plane + (first + top) * width, pitch, count, (bottom - top) * width, strip, to + top * columns * size, table
    )


@jit()
def put_pixels(x: Any, at: Any, pitch: Any, count: Any, n: Any, strip: Any, to: Any, table: Any) -> None:
    """n pixels of ``count`` planes to their places; zeros in the other lanes."""
    size = lanes(x)
    if count >= size and n >= size:
        for j in range(0, n, size):
            k = min(j, n - size)
            for lane in range(size):
                prefetch(x, at + k + AHEAD + lane * pitch)
            spread(x, at + k, pitch, strip, to, table, k)
    else:
        for j in range(0, n, size):
            spread_first(x, at + j, pitch, strip, to, table, j, n - j, count)


@jit()
def take_pixels(strip: Any, at: Any, n: Any, y: Any, to: Any, pitch: Any, count: Any) -> None:
    """n pixels back to ``count`` planes."""
    size = lanes(y)
    if count >= size and n >= size:
        for j in range(0, n, size):
            k = min(j, n - size)
            transpose(strip, at + k * size, size, y, to + k, pitch)
    else:
        for j in range(0, n, size):
            transpose_first(strip, at + j * size, size, y, to + j, pitch, count, n - j)


@jit()
def put_lanes(w: Any, each: Any, groups: Any, unit: Any, own: Any, to: Any, size: Any) -> None:
    """The ``each`` weights of the group in every lane, those of the units from ``unit`` on."""
    for lane in range(size):
        at = (unit + lane) % groups * each
        for k in range(each):
            own[to + k * size + lane] = w[at + k]


@jit()
def add_tap(runs: Any, first: Any, count: Any, offset: Any, step: Any, weight: Any) -> Any:
    """Lengthen the last of the runs from ``first`` on, if the tap continues it, or begin one; how many there are."""
    at = 4 * (count - 1)
    if count > first and runs[at + 1] < LONGEST and offset == runs[at] + runs[at + 1] * step:
        if runs[at + 1] == 1:
            runs[at + 3] = weight - runs[at + 2]
        if weight == runs[at + 2] + runs[at + 1] * runs[at + 3]:
            runs[at + 1] += 1
            return count
    runs[at + 4], runs[at + 5], runs[at + 6], runs[at + 7] = offset, 1, weight, 0
    return count + 1


@jit()
def runs_of_outputs(
    runs: Any, depth: Any, kh: Any, kw: Any, sw: Any, dh: Any, dw: Any, rows: Any, columns: Any, size: Any
) -> Any:
    """The taps of an output in strips of ``depth`` channels, those of a phase of columns together; how many runs."""
    count = 0
    for row in range(depth * kh):
        for phase in range(sw):
            for q in range(kw):
                if q * dw % sw == phase:
                    offset = ((row // kh * rows + row % kh * dh) * columns + q * dw) * size
                    count = add_tap(runs, 0, count, offset, sw * size, (row * kw + q) * size)
    return count


@jit()
def runs_of_inputs(
    runs: Any, begins: Any, each: Any, depth: Any, kh: Any, kw: Any, sh: Any, sw: Any, top: Any, left: Any, dh: Any,
    dw: Any, rows: Any, columns: Any, size: Any,
) -> None:  # fmt: skip
    """The taps of an input in strips of ``each`` gradients, phase by phase; ``begins`` says where a phase begins."""
    up, back = before(kh, dh, sh, top), before(kw, dw, sw, left)
    count = 0
    for phase in range(sh * sw):
        first = count
        begins[phase] = first
        a, b = phase // sw + top, phase % sw + left
        for m in range(each):
            for p in range(kh):
                for q in range(kw - 1, -1, -1):
                    if (a - p * dh) % sh == 0 and (b - q * dw) % sw == 0:
                        row, column = (a - p * dh) // sh + up, (b - q * dw) // sw + back
                        offset = ((m * rows + row) * columns + column) * size
                        weight = ((m * depth * kh + p) * kw + q) * size
                        count = add_tap(runs, first, count, offset, size, weight)
    begins[sh * sw] = count
