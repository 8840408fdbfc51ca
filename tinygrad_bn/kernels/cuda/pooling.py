"""Planes (P, H, W): pooled over windows of tables, and read at other rows and columns.

Forward, a thread or, where windows are large, a group of them has one window. Backward, a thread has one pixel of
several planes: it looks up the windows, or the rows and columns, that it belongs to once, and adds up what they say in
a fixed order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.copying import as_words
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.entry import blocks, entry
from tinygrad_bn.kernels.cuda.indexing import scatter_lines, take_along
from tinygrad_bn.kernels.cuda.reduction import plus, settled
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import real

__all__ = [
    "adaptive_max_pool", "add_grid", "avg_pool", "avg_pool_backward", "pool_gather", "pool_scatter", "take_grid",
]  # fmt: skip

Array = np.ndarray[Any, Any]
LANES = 32  # of a group
LARGE = 64  # elements of a window


@entry
def _adaptive_max_pool(
    x: Any, table: Any, across: Any, out: Any, index: Any, height: Any, width: Any, rows: Any, columns: Any, n: Any
) -> None:
    o = cuda.grid(1)
    while o < n:
        line = o // columns
        c = o - line * columns
        p = line // rows
        r = line - p * rows
        best = real(-np.inf)
        at = -1
        for h in range(table[3 * r], table[3 * r + 1]):
            for w in range(across[3 * c], across[3 * c + 1]):
                v = x[(p * height + h) * width + w]
                if at < 0 or v > best or v != v:
                    best = v
                    at = h * width + w
        out[o] = best
        index[o] = at
        o += cuda.gridsize(1)


@entry(static="lanes")
def _avg_pool(
    x: Any, table: Any, across: Any, out: Any, height: Any, width: Any, rows: Any, columns: Any, n: Any, lanes: Any
) -> None:
    """A group's lanes take the elements of a window in turn; each adds up with Kahan's compensation."""
    merged = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    lane = t % lanes
    o = cuda.blockIdx.x * (THREADS // lanes) + t // lanes
    total = real(0.0)
    lost = real(0.0)
    plain = real(0.0)
    count = real(1.0)
    if o < n:
        line = o // columns
        c = o - line * columns
        p = line // rows
        r = line - p * rows
        top = table[3 * r]
        left = across[3 * c]
        wide = across[3 * c + 1] - left
        count = real(table[3 * r + 2]) * real(across[3 * c + 2])
        for k in range(lane, (table[3 * r + 1] - top) * wide, lanes):
            i = k // wide
            total, lost, plain = plus(total, lost, plain, x[(p * height + top + i) * width + left + k - i * wide])
    if lanes > 1:
        merged[t] = settled(total, lost, plain)
        cuda.syncthreads()
        half = lanes // 2
        while half > 0:
            if lane < half:
                merged[t] += merged[t + half]
            cuda.syncthreads()
            half //= 2
        if o < n and lane == 0:
            out[o] = merged[t] / np.float64(count)
    elif o < n:  # a window a thread: nothing of float64, in which some GPUs do 1 operation in the time of 64
        mean = (total - lost) / count
        out[o] = mean if mean == mean else plain / count


@entry
def _avg_pool_backward(
    gy: Any, table: Any, across: Any, out: Any, planes: Any, height: Any, width: Any, rows: Any, columns: Any,
    mine: Any, n: Any,
) -> None:  # fmt: skip
    o = cuda.grid(1)
    if o < n:
        pixel = o % (height * width)
        first = o // (height * width) * mine
        h = pixel // width
        w = pixel % width
        begin, end, start, stop = rows, 0, columns, 0
        for r in range(rows):
            if table[3 * r] <= h and h < table[3 * r + 1]:
                begin = min(begin, r)
                end = r + 1
        for c in range(columns):
            if across[3 * c] <= w and w < across[3 * c + 1]:
                start = min(start, c)
                stop = c + 1
        for p in range(first, min(first + mine, planes)):
            total = 0.0
            for r in range(begin, end):
                if table[3 * r] <= h and h < table[3 * r + 1]:
                    for c in range(start, stop):
                        if across[3 * c] <= w and w < across[3 * c + 1]:
                            count = real(table[3 * r + 2]) * real(across[3 * c + 2])
                            total += gy[(p * rows + r) * columns + c] / count
            out[p * height * width + pixel] = total


@entry
def _take_grid(
    x: Any, table: Any, across: Any, out: Any, height: Any, width: Any, rows: Any, columns: Any, n: Any
) -> None:
    o = cuda.grid(1)
    while o < n:
        line = o // columns
        p = line // rows
        out[o] = x[(p * height + table[line - p * rows]) * width + across[o - line * columns]]
        o += cuda.gridsize(1)


@entry
def _add_grid(
    gy: Any, table: Any, across: Any, out: Any, planes: Any, height: Any, width: Any, rows: Any, columns: Any,
    mine: Any, n: Any,
) -> None:  # fmt: skip
    o = cuda.grid(1)
    if o < n:
        pixel = o % (height * width)
        first = o // (height * width) * mine
        h = pixel // width
        w = pixel % width
        begin, end, start, stop = rows, 0, columns, 0
        for r in range(rows):
            if table[r] == h:
                begin = min(begin, r)
                end = r + 1
        for c in range(columns):
            if across[c] == w:
                start = min(start, c)
                stop = c + 1
        for p in range(first, min(first + mine, planes)):
            total = 0.0
            for r in range(begin, end):
                if table[r] == h:
                    for c in range(start, stop):
                        if across[c] == w:
                            total += gy[(p * rows + r) * columns + c]
            out[p * height * width + pixel] = total


def _shares(out: Array) -> tuple[int, int]:
    """How many threads there are for all pixels, and how many planes each goes through."""
    planes, height, width = out.shape
    groups = max(min(-(-8 * THREADS * driver().processors // (height * width)), planes), 1)
    mine = -(-planes // groups)
    return height * width * -(-planes // mine), mine


def adaptive_max_pool(x: Array, rows: Array, columns: Array, out: Array, index: Array) -> None:
    """The maximum over the windows of two tables, and its place in the plane."""
    if out.size:
        sizes = *x.shape[1:], *out.shape[1:]
        _adaptive_max_pool[blocks(out.size)](x, rows, columns, out, index, *sizes, out.size)


def pool_scatter(gy: Array, index: Array, out: Array) -> None:
    """Zeros (P, H, W) with gy[p, o] added at the place index[p, o] of each plane; places below 0 count for nothing."""
    if out.size:
        lines = *gy.shape, 1
        scatter_lines(gy.reshape(lines), index.reshape(lines), out.reshape(len(out), -1, 1), True)


def pool_gather(x: Array, index: Array, out: Array) -> None:
    """out[p, o] = x[p] at the place index[p, o], 0 where that is below 0."""
    if out.size:
        planes = len(x)
        take_along(x.reshape(planes, -1, 1), index.reshape(planes, -1, 1), out)


def avg_pool(x: Array, rows: Array, columns: Array, work: Array, out: Array) -> None:
    """The mean over the windows of two tables; no workspace is needed."""
    n = out.size
    if n:
        lanes = min(LANES, THREADS) if x.size >= LARGE * n else 1
        sizes = *x.shape[1:], *out.shape[1:]
        _avg_pool[-(-n // (THREADS // lanes))](x, rows, columns, out, *sizes, n, lanes)


def avg_pool_backward(gy: Array, rows: Array, columns: Array, work: Array, out: Array) -> None:
    """gx[p, h, w] = Σ gy[p, r, c] / (m n) over the windows that hold (h, w)."""
    if out.size:
        n, mine = _shares(out)
        _avg_pool_backward[-(-n // THREADS)](gy, rows, columns, out, *out.shape, *gy.shape[1:], mine, n)


def take_grid(x: Array, rows: Array, columns: Array, out: Array) -> None:
    """out[p, r, c] = x[p, rows[r], columns[c]]."""
    if out.size:
        sizes = *x.shape[1:], *out.shape[1:]
        _take_grid[blocks(out.size)](as_words(x), rows, columns, as_words(out), *sizes, out.size)


def add_grid(gy: Array, rows: Array, columns: Array, out: Array) -> None:
    """Zeros (P, H, W) with gy[p, r, c] added at [p, rows[r], columns[c]]."""
    if out.size:
        n, mine = _shares(out)
        _add_grid[-(-n // THREADS)](gy, rows, columns, out, *out.shape, *gy.shape[1:], mine, n)
