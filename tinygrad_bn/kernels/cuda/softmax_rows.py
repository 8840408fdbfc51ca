"""Rows over the middle axis of (A, R, B): which threads take which, and their maxima and sums.

A row has 2^bits threads, its lanes; a block has as many rows as it has room for. With B = 1 the lanes of a row are
neighbours (``step`` 1), else lane 0 of all rows comes first, then lane 1 (``step`` is the number of rows).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.entry import device
from tinygrad_bn.kernels.cuda.maths import NAMES
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import real

__all__ = ["grid", "merged", "place", "risen", "row_sum", "rows", "shape"]

exp = NAMES["exp"]
EACH = 8  # elements of a thread, where there are enough rows to keep the GPU busy
FEW = 2
ALL = THREADS.bit_length() - 1


def shape(x: Any) -> tuple[int, int, int, int]:
    """The extents, and how many bits number the lanes of a row."""
    a, r, b = x.shape
    each = EACH if a * b * r >= EACH * 1024 * driver().processors else FEW
    bits = min(max(-(-r // each) - 1, 0).bit_length(), ALL)
    return a, r, b, bits


def grid(count: int, bits: int) -> int:
    """How many blocks have a group of lanes for each row."""
    return -(-(count << bits) // THREADS)


@device
def place(a: Any, r: Any, b: Any, bits: Any) -> Any:
    """The thread's lane, the distance between lanes, the row's number, and where the row begins."""
    t = np.int64(cuda.threadIdx.x)
    each = THREADS >> bits
    if b == 1:
        row = np.int64(cuda.blockIdx.x) * each + (t >> bits)
        return t & ((1 << bits) - 1), 1, row, row * r
    row = np.int64(cuda.blockIdx.x) * each + (t & (each - 1))
    sample = row // b
    return t >> (ALL - bits), each, row, sample * (r * b) + (row - sample * b)


@device
def difference(x: Any, y: Any) -> Any:
    """x - y; 0 of equal infinities."""
    return real(0) if x == y else x - y


@device
def risen(top: Any, total: Any, v: Any) -> Any:
    """The maximum, and the sum of exponentials relative to it, with one more element; its NaN shows in the sum."""
    d = difference(v, top)
    e = exp(-abs(d))
    if d > 0.0:
        return v, total * e + 1.0
    return top, total + e


@device
def merged(top: Any, total: Any, other: Any, more: Any) -> Any:
    """The same of two parts of a row."""
    if other > top:
        return other, total * exp(difference(top, other)) + more
    return top, total + more * exp(difference(other, top))


@device
def rows(x: Any, at: Any, count: Any, lane: Any, step: Any, b: Any, bits: Any, tops: Any, sums: Any) -> Any:
    """The maximum of a row's ``count`` elements and its sum of exponentials, for all of its threads."""
    top, total = real(-np.inf), real(0)
    lanes = 1 << bits
    k, far = lane, lanes * b
    while k + 3 * lanes < count:  # four loads at a time, or there would not be enough under way
        i = at + k * b
        v0, v1, v2, v3 = x[i], x[i + far], x[i + 2 * far], x[i + 3 * far]
        top, total = risen(top, total, v0)
        top, total = risen(top, total, v1)
        top, total = risen(top, total, v2)
        top, total = risen(top, total, v3)
        k += 4 * lanes
    while k < count:
        top, total = risen(top, total, x[at + k * b])
        k += lanes
    t = cuda.threadIdx.x
    tops[t], sums[t] = top, total
    half = (1 << bits) >> 1
    while half > 0:
        cuda.syncthreads()
        if lane < half:
            tops[t], sums[t] = merged(tops[t], sums[t], tops[t + half * step], sums[t + half * step])
        half >>= 1
    cuda.syncthreads()
    return tops[t - lane * step], sums[t - lane * step]


@device
def row_sum(total: Any, lane: Any, step: Any, bits: Any, sums: Any) -> Any:
    """The sum over the lanes of a row, for all of them: a tree in shared memory, the same for every block."""
    t = cuda.threadIdx.x
    sums[t] = total
    half = (1 << bits) >> 1
    while half > 0:
        cuda.syncthreads()
        if lane < half:
            sums[t] += sums[t + half * step]
        half >>= 1
    cuda.syncthreads()
    return sums[t - lane * step]
