"""Kernels that gather and scatter rows. An array is seen as (S, R): S positions, rows of R elements.

What is scattered has an order, since positions repeat: sums must be the same in each run, and of what is put the last
counts. So a block owns a range of destinations. It goes through all positions, a chunk after the other, lists those in
its range, in order, by a sum over its threads of how many each has found, and adds the rows that are listed; an element
of the result belongs to one thread. The positions are read as often as there are ranges, a few for each multiprocessor.

Along an axis, a thread owns a range of destinations of one line, and goes through the line's positions; where there are
few lines, each is scattered as rows of one element are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.copying import aligned, as_words
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.entry import blocks, entry
from tinygrad_bn.kernels.cuda.target import SIMULATED, THREADS, cuda
from tinygrad_bn.kernels.cuda.vector import load4, raise_to, store4

__all__ = [
    "add_rows", "check_index", "put_along", "put_rows", "ravel_index", "scatter_lines", "spread", "take_along",
    "take_rows",
]  # fmt: skip

Array = np.ndarray[Any, Any]
EACH = 2 if SIMULATED else 8  # positions that a thread looks at in a chunk
CHUNK = EACH * THREADS
FEW = 4 if SIMULATED else 1 << 12  # lines


# --------------------------------------------------------------------------------------------------------- indices


@entry
def _ravel_index(indices: Any, extents: Any, out: Any, status: Any, m: Any, count: Any) -> None:
    i = cuda.grid(1)
    while i < m:
        at = np.int64(0)
        for k in range(count):
            index = indices[k * m + i]
            n = extents[k]
            if index < -n or index >= n:
                raise_to(status, 0, 1)
                index = np.int64(0)
            at = at * n + (index + n if index < 0 else index)
        out[i] = at
        i += cuda.gridsize(1)


@entry
def _first_out(indices: Any, extents: Any, status: Any, m: Any, count: Any) -> None:
    """One block, which reports the first index that is out of range, where there is one."""
    if status[0] == 0:
        return
    first = cuda.shared.array(THREADS, np.int64)
    t = cuda.threadIdx.x
    bad = m
    for i in range(t, m, THREADS):
        for k in range(count):
            if indices[k * m + i] < -extents[k] or indices[k * m + i] >= extents[k]:
                bad = min(bad, i)
    first[t] = bad
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            first[t] = min(first[t], first[t + half])
        cuda.syncthreads()
        half //= 2
    i = first[0]
    if t == 0 and i < m:
        k = 0
        while k < count - 1 and indices[k * m + i] >= -extents[k] and indices[k * m + i] < extents[k]:
            k += 1
        status[1] = i
        status[2] = indices[k * m + i]
        status[3] = extents[k]


@entry
def _check_index(index: Any, limit: Any, wrap: Any, out: Any, status: Any, m: Any) -> None:
    i = cuda.grid(1)
    while i < m:
        at = index[i]
        at = at + limit if wrap != 0 and at < 0 else at
        if at < 0 or at >= limit:
            raise_to(status, 0, 1)
            at = np.int64(0)
        out[i] = at
        i += cuda.gridsize(1)


@entry
def _first_unchecked(index: Any, limit: Any, wrap: Any, status: Any, m: Any) -> None:
    """One block, which reports the first index that is out of range, where there is one."""
    if status[0] == 0:
        return
    first = cuda.shared.array(THREADS, np.int64)
    t = cuda.threadIdx.x
    bad = m
    for i in range(t, m, THREADS):
        at = index[i]
        at = at + limit if wrap != 0 and at < 0 else at
        if at < 0 or at >= limit:
            bad = min(bad, i)
    first[t] = bad
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            first[t] = min(first[t], first[t + half])
        cuda.syncthreads()
        half //= 2
    i = first[0]
    if t == 0 and i < m:
        status[1] = i
        status[2] = index[i]
        status[3] = limit


# ---------------------------------------------------------------------------------------------------------- gathers


@entry(static="fours")
def _take_rows(x: Any, positions: Any, out: Any, n: Any, r: Any, fours: Any) -> None:
    """With ``fours``, n and r count units of four elements."""
    i = cuda.grid(1)
    while i < n:
        m = i // r
        source = positions[m] * r + i - m * r
        if fours:
            a, b, c, d = load4(x, 4 * source)
            store4(out, 4 * i, a, b, c, d)
        else:
            out[i] = x[source]
        i += cuda.gridsize(1)


@entry
def _take_along(x: Any, positions: Any, out: Any, n: Any, r: Any, m: Any, b: Any) -> None:
    """0 at positions below 0."""
    i = cuda.grid(1)
    while i < n:
        p = positions[i]
        if p >= 0:
            out[i] = x[(i // (m * b) * r + p) * b + i % b]
        else:
            out[i] = 0
        i += cuda.gridsize(1)


# ---------------------------------------------------------------------------------------------------------- scatters


@entry(static="adds columns")
def _scatter_rows(
    x: Any, positions: Any, out: Any, m: Any, r: Any, s: Any, ranges: Any, mine: Any, adds: Any, columns: Any
) -> None:  # fmt: skip
    """x (A, M, R) into out (A, S, R); ``columns``, a power of two, of a block's threads share a destination."""
    listed = cuda.shared.array(CHUNK, np.int64)
    counts = cuda.shared.array(THREADS, np.int64)
    whole = cuda.shared.array(1, np.int64)
    t = cuda.threadIdx.x
    chunks = (r + columns - 1) // columns
    column = cuda.blockIdx.x % chunks * columns + t % columns
    low = cuda.blockIdx.x // chunks % ranges * mine
    high = min(low + mine, s)
    a = cuda.blockIdx.x // (chunks * ranges)
    groups = THREADS // columns
    group = t // columns
    first = 0
    while first < m:
        if t == 0:
            whole[0] = 0
        cuda.syncthreads()
        count = 0
        begin = first + t * EACH
        for i in range(begin, min(begin + EACH, m)):
            p = positions[a * m + i]
            if p >= low and p < high:
                count += 1
        if count > 0:
            cuda.atomic.add(whole, 0, count)
        counts[t] = count
        cuda.syncthreads()
        found = whole[0]
        if found > 0:
            step = 1
            while step < THREADS:
                before = counts[t - step] if t >= step else 0
                cuda.syncthreads()
                counts[t] += before
                cuda.syncthreads()
                step *= 2
            place = counts[t] - count
            for i in range(begin, min(begin + EACH, m)):
                p = positions[a * m + i]
                if p >= low and p < high:
                    listed[place] = i
                    place += 1
            cuda.syncthreads()
            for e in range(found):
                i = listed[e]
                p = positions[a * m + i]
                if (p - low) % groups == group and column < r:
                    value = x[(a * m + i) * r + column]
                    if adds:
                        out[(a * s + p) * r + column] += value
                    else:
                        out[(a * s + p) * r + column] = value
        cuda.syncthreads()
        first += CHUNK


@entry(static="adds")
def _scatter_lines(
    x: Any, positions: Any, out: Any, lines: Any, m: Any, r: Any, b: Any, shares: Any, mine: Any, adds: Any
) -> None:  # fmt: skip
    """x (A, M, B) into out (A, R, B), of A · B lines; what is added begins at 0."""
    i = cuda.grid(1)
    while i < lines * shares:
        line = i // (b * shares) * b + i % b
        low = i // b % shares * mine
        high = min(low + mine, r)
        a = line // b
        c = line % b
        if adds:
            for k in range(low, high):
                out[(a * r + k) * b + c] = 0
        for k in range(m):
            at = (a * m + k) * b + c
            p = positions[at]
            if p >= low and p < high:
                if adds:
                    out[(a * r + p) * b + c] += x[at]
                else:
                    out[(a * r + p) * b + c] = x[at]
        i += cuda.gridsize(1)


def _scattered(x: Array, positions: Array, out: Array, shape: tuple[int, int, int, int], adds: bool) -> None:
    a, m, r, s = shape
    if not x.size:
        return
    columns = 1
    while columns < min(r, THREADS):
        columns *= 2
    chunks = -(-r // columns)
    ranges = max(min(-(-4 * driver().processors // (a * chunks)), s), 1)
    mine = -(-s // ranges)
    _scatter_rows[a * chunks * ranges](x, positions, out, m, r, s, ranges, mine, adds, columns)


def scatter_lines(x: Array, positions: Array, out: Array, adds: bool) -> None:
    """out (A, R, B) at [a, positions[a, m, b], b]: x (A, M, B) added to zeros, or put; positions below 0 are left
    out."""
    a, r, b = out.shape
    m = x.shape[1]
    if not out.size:
        return
    if b == 1 and a < FEW and m > THREADS:
        if adds:
            _zero[blocks(out.size)](out, out.size)
        _scattered(x, positions, out, (a, m, 1, r), adds)
        return
    shares = max(min(FEW * 16 // (a * b), r), 1)
    _scatter_lines[blocks(a * b * shares)](x, positions, out, a * b, m, r, b, shares, -(-r // shares), adds)


@entry
def _zero(out: Any, n: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        out[i] = 0
        i += cuda.gridsize(1)


# --------------------------------------------------------------------------------------------------------- the topic


def ravel_index(indices: Array, extents: Array, out: Array, status: Array) -> None:
    """Combine K indices per element, shape (K, M) int64, negative ones from the end, into one over extents (K,)."""
    count, m = indices.shape
    if m:
        _ravel_index[blocks(m)](indices, extents, out, status, m, count)
        _first_out[1](indices, extents, status, m, count)


def check_index(index: Array, limit: int, wrap: bool, out: Array, status: Array) -> None:
    """out = index (M,) int64 where 0 <= index < limit; with ``wrap``, -limit <= index < 0 counts from the end."""
    if index.size:
        _check_index[blocks(index.size)](index, limit, wrap, out, status, index.size)
        _first_unchecked[1](index, limit, wrap, status, index.size)


def take_rows(x: Array, positions: Array, out: Array) -> None:
    """out_m = x[positions_m]."""
    if out.size:
        r = out.shape[1]
        x, out = as_words(x), as_words(out)
        fours = r % 4 == 0 and aligned(x) and aligned(out)
        unit = 4 if fours else 1
        _take_rows[blocks(out.size // unit)](x, positions, out, out.size // unit, r // unit, fours)


def put_rows(x: Array, positions: Array, out: Array) -> None:
    """out[positions_m] = x_m; of repeated positions the last counts."""
    _scattered(as_words(x), positions, as_words(out), (1, *x.shape, out.shape[0]), False)


def add_rows(x: Array, positions: Array, out: Array) -> None:
    """out[positions_m] += x_m, in order."""
    _scattered(x, positions, out, (1, *x.shape, out.shape[0]), True)


def take_along(x: Array, positions: Array, out: Array) -> None:
    """out[a, m, b] = x[a, positions[a, m, b], b] for x (A, R, B)."""
    _, m, b = positions.shape
    if out.size:
        _take_along[blocks(out.size)](as_words(x), positions, as_words(out), out.size, x.shape[1], m, b)


def spread(gy: Array, positions: Array, out: Array) -> None:
    """Zeros of shape (A, R, B) with gy[a, m, b] added at out[a, positions[a, m, b], b]."""
    scatter_lines(gy, positions, out, True)


def put_along(x: Array, positions: Array, out: Array) -> None:
    """out[a, positions[a, m, b], b] = x[a, m, b] for out (A, R, B); of repeated positions the last counts."""
    if x.size:
        scatter_lines(as_words(x), positions, as_words(out), False)
