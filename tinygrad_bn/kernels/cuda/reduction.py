"""Reductions over the middle axis of an array seen as (A, R, B): y_ab = reduce_r x_arb.

``width`` results share a block; ``THREADS / width`` threads, its lanes, take the elements of one in turn and merge what
they found as a tree. A lane of a floating-point sum adds up four sums, each with Kahan's compensation, which is worth
twice the bits of the type; the merge is in float64. Lanes lie side by side along R where B is 1, along B elsewhere, so
that a block reads runs of elements. The order is fixed by the shape and by how many multiprocessors the GPU has, which
where there are few results tells how many of them share a block: a GPU gives the same in each run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.copying import aligned
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.entry import device, entry
from tinygrad_bn.kernels.cuda.target import SIMULATED, THREADS, cuda
from tinygrad_bn.kernels.cuda.vector import load4
from tinygrad_bn.kernels.cuda.words import real
from tinygrad_bn.kernels.ref.reduction import SHARE

__all__ = ["extreme", "sum", "sum_all", "sum_int"]

Array = np.ndarray[Any, Any]
MANY = 32 if SIMULATED else 1024  # threads for the shares of a long row


@device
def plus(total: Any, lost: Any, plain: Any, v: Any) -> Any:
    """A sum, what its rounding took too much, and the plain sum, which infinities need; with v."""
    y = v - lost
    t = total + y
    return t, (t - total) - y, plain + v


@device
def settled(total: Any, lost: Any, plain: Any) -> Any:
    """The sum in float64: compensation makes NaN of infinities, the plain sum tells which it is."""
    exact = np.float64(total) - np.float64(lost)
    return exact if exact == exact else np.float64(plain)


@device
def lane_sum(x: Any, at: Any, n: Any, step: Any, lane: Any, lanes: Any, fours: Any) -> Any:
    """The sum of a lane's share of x[at], x[at + step] … n elements, in float64."""
    t0 = t1 = t2 = t3 = real(0.0)
    l0 = l1 = l2 = l3 = real(0.0)
    p0 = p1 = p2 = p3 = real(0.0)
    if fours:
        i = 4 * lane
        while i < n:
            a, b, c, d = load4(x, at + i)
            t0, l0, p0 = plus(t0, l0, p0, a)
            t1, l1, p1 = plus(t1, l1, p1, b)
            t2, l2, p2 = plus(t2, l2, p2, c)
            t3, l3, p3 = plus(t3, l3, p3, d)
            i += 4 * lanes
    else:
        i = lane
        while i + 3 * lanes < n:
            a = x[at + i * step]
            b = x[at + (i + lanes) * step]
            c = x[at + (i + 2 * lanes) * step]
            d = x[at + (i + 3 * lanes) * step]
            t0, l0, p0 = plus(t0, l0, p0, a)
            t1, l1, p1 = plus(t1, l1, p1, b)
            t2, l2, p2 = plus(t2, l2, p2, c)
            t3, l3, p3 = plus(t3, l3, p3, d)
            i += 4 * lanes
        while i < n:
            t0, l0, p0 = plus(t0, l0, p0, x[at + i * step])
            i += lanes
    return (settled(t0, l0, p0) + settled(t1, l1, p1)) + (settled(t2, l2, p2) + settled(t3, l3, p3))


@entry(static="width rows fours")
def _sum(x: Any, scale: Any, out: Any, a: Any, r: Any, b: Any, width: Any, rows: Any, fours: Any) -> None:
    """With ``rows``, the results are the rows of (A, R); else those of a chunk of B."""
    merged = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    lanes = THREADS // width
    if rows:
        lane = t % lanes
        column = t // lanes
        result = cuda.blockIdx.x * width + column
        inside = result < a
        at = result * r
        step = 1
    else:
        lane = t // width
        column = t % width
        chunks = (b + width - 1) // width
        i = cuda.blockIdx.x // chunks
        j = cuda.blockIdx.x % chunks * width + column
        inside = j < b
        result = i * b + j
        at = i * r * b + j
        step = b
    place = lane * width + column
    merged[place] = lane_sum(x, at, r, step, lane, lanes, fours) if inside else 0.0
    cuda.syncthreads()
    half = lanes // 2
    while half > 0:
        if lane < half:
            merged[place] += merged[place + half * width]
        cuda.syncthreads()
        half //= 2
    if inside and lane == 0:
        out[result] = merged[place] * scale


@entry(threads=MANY, static="fours")
def _sum_shares(x: Any, parts: Any, n: Any, fours: Any) -> None:
    merged = cuda.shared.array(MANY, np.float64)
    lane = cuda.threadIdx.x
    at = cuda.blockIdx.x * SHARE
    merged[lane] = lane_sum(x, at, min(n - at, SHARE), 1, lane, MANY, fours)
    cuda.syncthreads()
    half = MANY // 2
    while half > 0:
        if lane < half:
            merged[lane] += merged[lane + half]
        cuda.syncthreads()
        half //= 2
    if lane == 0:
        parts[cuda.blockIdx.x] = merged[0]


@entry
def _sum_parts(parts: Any, scale: Any, out: Any, n: Any) -> None:
    merged = cuda.shared.array(THREADS, np.float64)
    lane = cuda.threadIdx.x
    total = np.float64(0.0)
    for i in range(lane, n, THREADS):
        total += parts[i]
    merged[lane] = total
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if lane < half:
            merged[lane] += merged[lane + half]
        cuda.syncthreads()
        half //= 2
    if lane == 0:
        out[0] = merged[0] * scale


@entry(static="width rows")
def _sum_int(x: Any, out: Any, a: Any, r: Any, b: Any, width: Any, rows: Any) -> None:
    merged = cuda.shared.array(THREADS, np.int64)
    t = cuda.threadIdx.x
    lanes = THREADS // width
    if rows:
        lane = t % lanes
        column = t // lanes
        result = cuda.blockIdx.x * width + column
        inside = result < a
        at = result * r
        step = 1
    else:
        lane = t // width
        column = t % width
        chunks = (b + width - 1) // width
        i = cuda.blockIdx.x // chunks
        j = cuda.blockIdx.x % chunks * width + column
        inside = j < b
        result = i * b + j
        at = i * r * b + j
        step = b
    place = lane * width + column
    total = np.int64(0)
    if inside:
        for k in range(lane, r, lanes):
            total += np.int64(x[at + k * step])
    merged[place] = total
    cuda.syncthreads()
    half = lanes // 2
    while half > 0:
        if lane < half:
            merged[place] += merged[place + half * width]
        cuda.syncthreads()
        half //= 2
    if inside and lane == 0:
        out[result] = merged[place]


@device
def beats(x: Any, at: Any, step: Any, i: Any, j: Any, largest: Any) -> Any:
    """Whether element i stands before element j: NaN first, then by size, then by position; -1 is none."""
    if i < 0 or j < 0:
        return j < 0
    v = x[at + i * step]
    w = x[at + j * step]
    if v != v or w != w:
        return (v != v) and (w == w or i < j)
    if v == w:
        return i < j
    return v > w if largest else v < w


@entry(static="width rows largest")
def _extreme(x: Any, out: Any, index: Any, a: Any, r: Any, b: Any, width: Any, rows: Any, largest: Any) -> None:
    found = cuda.shared.array(THREADS, np.int64)
    t = cuda.threadIdx.x
    lanes = THREADS // width
    if rows:
        lane = t % lanes
        column = t // lanes
        result = cuda.blockIdx.x * width + column
        inside = result < a
        at = result * r
        step = 1
    else:
        lane = t // width
        column = t % width
        chunks = (b + width - 1) // width
        i = cuda.blockIdx.x // chunks
        j = cuda.blockIdx.x % chunks * width + column
        inside = j < b
        result = i * b + j
        at = i * r * b + j
        step = b
    place = lane * width + column
    best = -1
    if inside and lane < r:
        best = lane
        value = x[at + lane * step]
        for k in range(lane + lanes, r, lanes):
            v = x[at + k * step]
            if value == value and (v != v or (v > value if largest else v < value)):
                best = k
                value = v
    found[place] = best
    cuda.syncthreads()
    half = lanes // 2
    while half > 0:
        if lane < half and beats(x, at, step, found[place + half * width], found[place], largest):
            found[place] = found[place + half * width]
        cuda.syncthreads()
        half //= 2
    if inside and lane == 0:
        index[result] = found[place]
        out[result] = x[at + found[place] * step]


def _partition(a: int, r: int, b: int) -> tuple[int, int, bool]:
    """How many blocks, how many results a block has, and whether these are rows."""
    if b == 1:
        lanes = 4 if r <= 32 else min(32 if r <= 1024 else THREADS, THREADS)
        return -(-a // (THREADS // lanes)), THREADS // lanes, True
    width = min(32, THREADS) if r >= 32 else THREADS
    if a * -(-b // width) < 2 * driver().processors and r >= 32:
        width = 8
    return a * -(-b // width), width, False


def _words(x: Array) -> Array:
    return x.view(np.uint8) if x.dtype == np.bool_ else x


def sum(x: Array, scale: float, out: Array) -> None:
    """out = scale · Σ x, shape (A, B), of floating-point numbers, as accurate as sums in float64."""
    a, r, b = x.shape
    if out.size:
        grid, width, rows = _partition(a, r, b)
        fours = rows and r % 4 == 0 and aligned(x)
        _sum[grid](x, np.float64(scale), out, a, r, b, width, rows, fours)


def sum_all(x: Array, scale: float, parts: Array, out: Array) -> None:
    """out = scale · Σ x, shape (1, 1), of a long row, in shares of ``SHARE`` elements."""
    _sum_shares[parts.size](x, parts, x.size, x.size % 4 == 0 and aligned(x))
    _sum_parts[1](parts, np.float64(scale), out, parts.size)


def sum_int(x: Array, out: Array) -> None:
    """out = Σ x, shape (A, B), of integers and booleans, in int64."""
    a, r, b = x.shape
    if out.size:
        grid, width, rows = _partition(a, r, b)
        _sum_int[grid](_words(x), out, a, r, b, width, rows)


def extreme(x: Array, largest: bool, out: Array, index: Array) -> None:
    """The largest (or smallest) element and its first position, int64; a NaN beats anything."""
    a, r, b = x.shape
    if out.size:
        grid, width, rows = _partition(a, r, b)
        _extreme[grid](_words(x), _words(out), index, a, r, b, width, rows, bool(largest))
