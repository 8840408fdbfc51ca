"""Cross-entropy over (A, C, B) with classes in the middle: lse_ab - x[a, target_ab, b], where the target counts.

Rows are shared out among threads as in ``softmax_rows``. The losses are added up in float64, in a tree: by one block;
where there are many, by several, whose sums go to the workspace, a float64 as two of the workspace's type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.entry import blocks, device, entry
from tinygrad_bn.kernels.cuda.maths import NAMES
from tinygrad_bn.kernels.cuda.softmax_rows import grid, place, rows, shape
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import real

__all__ = ["cross_entropy", "cross_entropy_backward"]

exp, log = NAMES["exp"], NAMES["log"]
SUMMING = 2 * THREADS
MANY = 16 * SUMMING  # losses that several blocks add up
MOST = 1024  # blocks that do
MEAN, SUM, NONE = 0, 1, 2
NOWHERE = np.int64(2**63 - 1)


@entry
def _lse(x: Any, lse: Any, a: Any, r: Any, b: Any, bits: Any) -> None:
    tops = cuda.shared.array(THREADS, real)
    sums = cuda.shared.array(THREADS, real)
    lane, step, row, at = place(a, r, b, bits)
    top, total = rows(x, at, r if row < a * b else 0, lane, step, b, bits, tops, sums)
    if lane == 0 and row < a * b:
        lse[row] = top + log(total)


@device
def loss_at(x: Any, target: Any, lse: Any, i: Any, c: Any, b: Any, ignore: Any) -> Any:
    """The loss of sample i, 0 where it is ignored or wrong; whether it counts; whether its class is out of range."""
    k = target[i]
    if k == ignore:
        return real(0), 0, False
    if k < 0 or k >= c:
        return real(0), 1, True
    sample = i // b if b > 1 else i
    return lse[i] - x[(sample * c + k) * b + (i - sample * b)], 1, False


@device
def tree(totals: Any, counts: Any, wrongs: Any) -> None:
    """Add up what the threads of a block have found; element 0 is the sum, and the lowest wrong position."""
    t = cuda.threadIdx.x
    half = SUMMING // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            totals[t] += totals[t + half]
            counts[t] += counts[t + half]
            wrongs[t] = min(wrongs[t], wrongs[t + half])
        half //= 2
    cuda.syncthreads()


@device
def gather(
    x: Any, target: Any, lse: Any, n: Any, c: Any, b: Any, ignore: Any, totals: Any, counts: Any, wrongs: Any
) -> None:
    """Add up the losses of every gridsize-th sample from this block's on."""
    t = cuda.threadIdx.x
    total, count, wrong = np.float64(0), np.int64(0), NOWHERE
    i = cuda.grid(1)
    while i < n:
        loss, one, bad = loss_at(x, target, lse, i, c, b, ignore)
        total += np.float64(loss)
        count += one
        if bad and i < wrong:
            wrong = np.int64(i)
        i += cuda.gridsize(1)
    totals[t], counts[t], wrongs[t] = total, count, wrong
    tree(totals, counts, wrongs)


@device
def finish(
    total: Any, count: Any, wrong: Any, target: Any, c: Any, reduction: Any, out: Any, scale: Any, status: Any
) -> None:
    """Write the loss, the gradient's factor, and the first class that is out of range."""
    factor = np.float64(1) / np.float64(count) if reduction == MEAN else np.float64(1)
    scale[0] = factor
    if reduction == MEAN:
        out[0] = total / np.float64(count)
    elif reduction == SUM:
        out[0] = total
    if wrong != NOWHERE and status[0] == 0:
        status[0] = 1
        status[1] = wrong
        status[2] = target[wrong]
        status[3] = c - 1


@entry(threads=SUMMING)
def _reduce(
    x: Any,
    target: Any,
    lse: Any,
    n: Any,
    c: Any,
    b: Any,
    ignore: Any,
    reduction: Any,
    out: Any,
    scale: Any,
    status: Any,
) -> None:
    """One block."""
    totals = cuda.shared.array(SUMMING, np.float64)
    counts = cuda.shared.array(SUMMING, np.int64)
    wrongs = cuda.shared.array(SUMMING, np.int64)
    gather(x, target, lse, n, c, b, ignore, totals, counts, wrongs)
    if cuda.threadIdx.x == 0:
        finish(totals[0], counts[0], wrongs[0], target, c, reduction, out, scale, status)


@entry(threads=SUMMING)
def _part(x: Any, target: Any, lse: Any, n: Any, c: Any, b: Any, ignore: Any, work: Any) -> None:
    """A block's sum and count, in two halves each, and its lowest wrong position in three pieces of 21 bits."""
    totals = cuda.shared.array(SUMMING, np.float64)
    counts = cuda.shared.array(SUMMING, np.int64)
    wrongs = cuda.shared.array(SUMMING, np.int64)
    gather(x, target, lse, n, c, b, ignore, totals, counts, wrongs)
    if cuda.threadIdx.x == 0:
        at = cuda.blockIdx.x * 7
        high = real(totals[0])
        work[at] = high
        work[at + 1] = real(totals[0] - np.float64(high)) if abs(high) < real(np.inf) else real(0)
        work[at + 2] = real(counts[0] >> 20)
        work[at + 3] = real(counts[0] & 0xFFFFF)
        work[at + 4] = real(wrongs[0] >> 42)
        work[at + 5] = real((wrongs[0] >> 21) & 0x1FFFFF)
        work[at + 6] = real(wrongs[0] & 0x1FFFFF)


@entry(threads=SUMMING)
def _merge(work: Any, parts: Any, target: Any, c: Any, reduction: Any, out: Any, scale: Any, status: Any) -> None:
    """One block adds up what ``_part`` left, a block's to a thread."""
    totals = cuda.shared.array(SUMMING, np.float64)
    counts = cuda.shared.array(SUMMING, np.int64)
    wrongs = cuda.shared.array(SUMMING, np.int64)
    t = cuda.threadIdx.x
    totals[t], counts[t], wrongs[t] = np.float64(0), np.int64(0), NOWHERE
    if t < parts:
        at = t * 7
        totals[t] = np.float64(work[at]) + np.float64(work[at + 1])
        counts[t] = (np.int64(work[at + 2]) << 20) | np.int64(work[at + 3])
        low = (np.int64(work[at + 5]) << 21) | np.int64(work[at + 6])
        wrongs[t] = (np.int64(work[at + 4]) << 42) | low
    tree(totals, counts, wrongs)
    if t == 0:
        finish(totals[0], counts[0], wrongs[0], target, c, reduction, out, scale, status)


@entry
def _each(x: Any, target: Any, lse: Any, n: Any, c: Any, b: Any, ignore: Any, out: Any, scale: Any) -> None:
    """The losses themselves."""
    i = cuda.grid(1)
    if i == 0:
        scale[0] = 1.0
    while i < n:
        out[i] = loss_at(x, target, lse, i, c, b, ignore)[0]
        i += cuda.gridsize(1)


def cross_entropy(
    x: Any, target: Any, ignore_index: Any, reduction: Any, out: Any, lse: Any, scale: Any, work: Any, status: Any
) -> None:
    a, c, b, bits = shape(x)
    n = a * b
    if n:
        _lse[grid(n, bits)](x, lse, a, c, b, bits)
    if reduction == NONE:
        _each[blocks(n)](x, target, lse, n, c, b, ignore_index, out, scale)
    parts = min(-(-n // SUMMING), work.size // 7, MOST, SUMMING)
    if n > MANY and parts > 1:
        _part[parts](x, target, lse, n, c, b, ignore_index, work)
        _merge[1](work, parts, target, c, reduction, out, scale, status)
    else:
        _reduce[1](x, target, lse, n, c, b, ignore_index, reduction, out, scale, status)


@device
def slope(v: Any, shift: Any, g: Any, hit: Any, kept: Any) -> Any:
    """g (e^(v - shift) - 1 if hit); 0 where the sample is ignored, whatever the rest is."""
    e = exp(v - shift)
    return g * (e - 1.0 if hit else e) if kept else real(0)


@entry
def _backward(
    gy: Any, many: Any, x: Any, target: Any, lse: Any, scale: Any, ignore: Any, out: Any, a: Any, c: Any, b: Any,
    bits: Any,
) -> None:  # fmt: skip
    lane, _, row, at = place(a, c, b, bits)
    if row < a * b:
        klass, shift = target[row], lse[row]
        kept = klass != ignore
        g = gy[row if many else 0] * scale[0]
        lanes = 1 << bits
        k, far = lane, lanes * b
        while k + 3 * lanes < c:
            i = at + k * b
            v0, v1, v2, v3 = x[i], x[i + far], x[i + 2 * far], x[i + 3 * far]
            out[i] = slope(v0, shift, g, k == klass, kept)
            out[i + far] = slope(v1, shift, g, k + lanes == klass, kept)
            out[i + 2 * far] = slope(v2, shift, g, k + 2 * lanes == klass, kept)
            out[i + 3 * far] = slope(v3, shift, g, k + 3 * lanes == klass, kept)
            k += 4 * lanes
        while k < c:
            out[at + k * b] = slope(x[at + k * b], shift, g, k == klass, kept)
            k += lanes


def cross_entropy_backward(gy: Any, x: Any, target: Any, lse: Any, scale: Any, ignore_index: Any, out: Any) -> None:
    a, c, b, bits = shape(x)
    if a * b:
        _backward[grid(a * b, bits)](gy, gy.size > 1, x, target, lse, scale, ignore_index, out, a, c, b, bits)
