"""Arrays filled and copied, of any strides, with conversion.

The axes are put into the order in which the result lies in memory, and adjacent ones that are walked alike become one.
What then is one run of elements on both sides is copied four at a time. Where the fastest axes of source and result
differ, tiles of ``TILE`` × ``TILE`` elements go through shared memory, so that both sides are touched in runs; a
tile's lines are one element longer than it is wide, or its columns would lie in one bank.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np

from tinygrad_bn.errors import DTypeError
from tinygrad_bn.kernels.cuda.array import address
from tinygrad_bn.kernels.cuda.entry import Entry, blocks, entry
from tinygrad_bn.kernels.cuda.target import SIMULATED, THREADS, cuda
from tinygrad_bn.kernels.cuda.vector import load4, store4
from tinygrad_bn.kernels.cuda.walks import NARROW, extents, places, steps, written

__all__ = ["aligned", "arange", "as_words", "copy", "fill", "linspace"]

Array = np.ndarray[Any, Any]
Axis = tuple[int, ...]  # extent, and the steps in elements of the arrays

TILE = 8 if SIMULATED else 32
TILED = TILE * (TILE + 1)
AXES = 6  # that a kernel takes
_WORDS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


# ---------------------------------------------------------------------------------------------------------- kernels


@entry(static="truth")
def _copy_run(x: Any, out: Any, n: Any, truth: Any) -> None:
    i = cuda.grid(1)
    while 4 * i < n:
        at = 4 * i
        if at + 4 <= n:
            a, b, c, d = load4(x, at)
            if truth:
                store4(out, at, a != 0, b != 0, c != 0, d != 0)
            else:
                store4(out, at, a, b, c, d)
        else:
            while at < n:
                if truth:
                    out[at] = x[at] != 0
                else:
                    out[at] = x[at]
                at += 1
        i += cuda.gridsize(1)


@entry(static="truth word")
def _turn(
    x: Any, out: Any, truth: Any, word: Any, rows: Any, columns: Any, x_row: Any, out_row: Any, x_column: Any,
    out_column: Any, e1: Any, e2: Any, e3: Any, x_0: Any, x_1: Any, x_2: Any, x_3: Any, out_0: Any, out_1: Any,
    out_2: Any, out_3: Any,
) -> None:  # fmt: skip
    """Along a row's axis elements are neighbours in the source, along a column's in the result; other axes choose the
    plane."""
    tile = cuda.shared.array(TILED, word)
    across = (columns + TILE - 1) // TILE
    down = (rows + TILE - 1) // TILE
    block = cuda.blockIdx.x
    row = block // across % down * TILE
    column = block % across * TILE
    plane = block // (across * down)
    k3 = plane % e3
    k2 = plane // e3 % e2
    k1 = plane // (e3 * e2) % e1
    k0 = plane // (e3 * e2 * e1)
    x_at = k0 * x_0 + k1 * x_1 + k2 * x_2 + k3 * x_3 + row * x_row + column * x_column
    out_at = k0 * out_0 + k1 * out_1 + k2 * out_2 + k3 * out_3 + row * out_row + column * out_column
    fast = cuda.threadIdx.x % TILE
    slow = cuda.threadIdx.x // TILE
    for c in range(slow, TILE, THREADS // TILE):
        if row + fast < rows and column + c < columns:
            tile[c * (TILE + 1) + fast] = x[x_at + fast * x_row + c * x_column]
    cuda.syncthreads()
    for r in range(slow, TILE, THREADS // TILE):
        if row + r < rows and column + fast < columns:
            value = tile[fast * (TILE + 1) + r]
            if truth:
                out[out_at + r * out_row + fast * out_column] = value != 0
            else:
                out[out_at + r * out_row + fast * out_column] = value


@cache
def _copy_strided(rank: int, wide: bool, truth: bool) -> Entry:
    parameters = ", ".join([*extents(rank), *steps("x", rank), *steps("out", rank)])
    lines = "\n                ".join(places(("x", "out"), rank, wide))
    return written(
        "_copy_strided",
        f"""
        def _copy_strided(x, out, n, {parameters}):
            i = cuda.grid(1)
            while i < n:
                {lines}
                out[out_at] = x[x_at]{" != 0" if truth else ""}
                i += cuda.gridsize(1)
        """,
        globals(),
    )


@cache
def _fill_strided(rank: int, wide: bool) -> Entry:
    parameters = ", ".join([*extents(rank), *steps("out", rank)])
    lines = "\n                ".join(places(("out",), rank, wide))
    return written(
        "_fill_strided",
        f"""
        def _fill_strided(value, out, n, {parameters}):
            i = cuda.grid(1)
            while i < n:
                {lines}
                out[out_at] = value
                i += cuda.gridsize(1)
        """,
        globals(),
    )


@entry
def _fill_run(value: Any, out: Any, n: Any) -> None:
    i = cuda.grid(1)
    while 4 * i < n:
        at = 4 * i
        if at + 4 <= n:
            store4(out, at, value, value, value, value)
        else:
            while at < n:
                out[at] = value
                at += 1
        i += cuda.gridsize(1)


@entry
def _arange(start: Any, step: Any, out: Any, n: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        out[i] = start + i * step
        i += cuda.gridsize(1)


@entry
def _linspace(start: Any, step: Any, end: Any, out: Any, n: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        out[i] = end if i == n - 1 and n > 1 else start + i * step
        i += cuda.gridsize(1)


# ------------------------------------------------------------------------------------------------------------- axes


def aligned(array: Array) -> bool:
    """Whether four elements can be taken at once from the beginning on."""
    return bool(address(array) % min(4 * array.itemsize, 16) == 0)


def as_words(array: Array) -> Array:
    """The same memory as unsigned numbers of the elements' size: what is only moved."""
    return array.view(_WORDS[array.itemsize])


def _steps(array: Array) -> tuple[int, ...]:
    size = array.itemsize
    return tuple([s // size for s in array.strides])


def _axes(shape: tuple[int, ...], *arrays: tuple[int, ...]) -> list[Axis]:
    """Extents and steps from the slowest axis of the last array to its fastest, as few axes as there can be."""
    known = [a for a in zip(shape, *arrays) if a[0] != 1]
    found: list[Axis] = []
    for axis in sorted(known, key=lambda a: [-abs(s) for s in a[:0:-1]]):
        n = axis[0]
        if found and all(above == n * s for above, s in zip(found[-1][1:], axis[1:])):
            found[-1] = (found[-1][0] * n, *axis[1:])
        else:
            found.append(axis)
    return found


def _is_run(axes: list[Axis]) -> bool:
    """Whether elements lie side by side in all arrays."""
    return not axes or (len(axes) == 1 and all(s == 1 for s in axes[0][1:]))


def _columns(axes: list[Axis]) -> list[tuple[int, ...]]:
    """The extents behind the first, and the steps of each array."""
    extent, *steps = zip(*axes)
    return [extent[1:], *steps]


# -------------------------------------------------------------------------------------------------------- the topic


def copy(x: Array, out: Array) -> None:
    """Copy with conversion; any strides on both sides."""
    truth = False
    if x.dtype == out.dtype:
        x, out = as_words(x), as_words(out)
    else:
        truth = out.dtype == np.bool_
        for name, array in (("x", x), ("out", out)):
            if array.dtype in (np.float16, np.uint16):
                raise DTypeError(f"copy: '{name}' must be of a type that is computed with. Got {array.dtype}.")
        x = x.view(np.uint8) if x.dtype == np.bool_ else x
        out = out.view(np.uint8) if truth else out
    if out.size:
        _copy(np.broadcast_to(x, out.shape, subok=True) if x.shape != out.shape else x, out, truth)


def _copy(x: Array, out: Array, truth: bool) -> None:
    axes = _axes(out.shape, _steps(x), _steps(out))
    if len(axes) > AXES:
        for a, b in zip(_slices(x, out.shape), _slices(out, out.shape)):
            _copy(a, b, truth)
        return
    if _is_run(axes) and aligned(x) and aligned(out):
        _copy_run[blocks(-(-out.size // 4))](x, out, out.size, truth)
        return
    if not axes:
        axes = [(1, 1, 1)]
    row = _row(axes)
    if row is None:
        strided = _copy_strided(len(axes), out.size >= NARROW, truth)
        strided[blocks(out.size)](x, out, out.size, *sum(_columns(axes), ()))
        return
    rows, x_row, out_row = axes[row]
    columns, x_column, out_column = axes[-1]
    others = axes[:row] + axes[row + 1 : -1]
    others = [(1, 0, 0)] * (4 - len(others)) + others
    grid = -(-rows // TILE) * -(-columns // TILE) * prod(a[0] for a in others)
    lines = rows, columns, x_row, out_row, x_column, out_column
    _turn[grid](x, out, truth, x.dtype.name, *lines, *sum(_columns(others), ()))


def _row(axes: list[Axis]) -> int | None:
    """The axis whose elements are neighbours in the source, where that is worth a way through shared memory."""
    n, source, into = axes[-1]
    if abs(into) != 1 or abs(source) <= 1 or n < TILE // 4:
        return None
    return next((i for i, a in enumerate(axes[:-1]) if abs(a[1]) == 1 and a[0] >= TILE // 4), None)


def _slices(array: Array, shape: tuple[int, ...]) -> list[Array]:
    """The slices along the shortest axis."""
    _, axis = min((n, i) for i, n in enumerate(shape) if n > 1)
    return [array[(slice(None),) * axis + (k,)] for k in range(shape[axis])]


def fill(value: float, out: Array) -> None:
    """Write one number everywhere; any strides."""
    if out.size:
        word = _WORDS[out.itemsize]
        with np.errstate(all="ignore"):
            host = np.empty((), out.dtype)
            host.fill(value)
        _fill(host.view(word)[()], out.view(word))


def _fill(value: Any, out: Array) -> None:
    axes = _axes(out.shape, _steps(out))
    if len(axes) > AXES:
        for part in _slices(out, out.shape):
            _fill(value, part)
    elif _is_run(axes) and aligned(out):
        _fill_run[blocks(-(-out.size // 4))](value, out, out.size)
    else:
        axes = axes or [(1, 1)]
        strided = _fill_strided(len(axes), out.size >= NARROW)
        strided[blocks(out.size)](value, out, out.size, *sum(_columns(axes), ()))


def arange(start: Any, step: Any, out: Array) -> None:
    """out_i = start + i · step, computed in float64 or int64."""
    kind = np.float64 if isinstance(start, float) or isinstance(step, float) else np.int64
    _arange[blocks(out.size)](kind(start), kind(step), out, out.size)


def linspace(start: float, end: float, out: Array) -> None:
    """out.size numbers from start to end, both included; computed in float64."""
    step = (end - start) / max(out.size - 1, 1)
    _linspace[blocks(out.size)](np.float64(start), np.float64(step), np.float64(end), out, out.size)
