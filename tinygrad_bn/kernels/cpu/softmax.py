"""Softmax and its relatives over the middle axis of (A, R, B); cross-entropy over (A, C, B) with classes in the middle.

    softmax      y_r = e^(x_r - m) / Σ e^(x - m),  m = max x
    logsumexp    y = m + ln Σ e^(x - m)
    log_softmax  y_r = x_r - logsumexp(x)

A block is one row (a, ·, b); rows with B = 1 lie side by side in memory and are taken by the register.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu import math
from tinygrad_bn.kernels.cpu._jit import REDUCE, jit, parallel
from tinygrad_bn.kernels.cpu.simd import pointer_to
from tinygrad_bn.kernels.cpu.softmax_rows import (
    log_softmax_backward_row,
    log_softmax_row,
    log_sum_exp_row,
    scaled_softmax_row,
    softmax_backward_row,
    softmax_row,
)

GRAIN = 1 << 14


@jit(fastmath=REDUCE)
def row_max(x: Any) -> Any:
    """The largest element; a NaN may be passed over, it shows in the sum."""
    best = x[0]
    for i in range(1, x.size):
        best = max(best, x[i])
    return best


@jit(fastmath=REDUCE)
def sum_exp(x: Any, shift: Any) -> Any:
    """Σ e^(x - shift) in the row's own type."""
    total = x.dtype.type(0)
    for i in range(x.size):
        total += math.exp(x[i] - shift)
    return total


@jit(fastmath=REDUCE)
def plain_sum(x: Any) -> Any:
    """The sum of a row in its own type."""
    added = x.dtype.type(0)
    for i in range(x.size):
        added += x[i]
    return added


@jit(fastmath=REDUCE)
def dot(x: Any, y: Any) -> Any:
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@jit()
def shift_of(x: Any) -> Any:
    """The largest element, or 0 where that is infinite or NaN: what keeps e^(x - shift) meaningful."""
    m = row_max(x)
    return m if abs(m) < np.inf else x.dtype.type(0)


@jit()
def log_sum_exp(x: Any) -> Any:
    shift = shift_of(x)
    return shift + math.log(sum_exp(x, shift))


@jit()
def softmax_column(x: Any, out: Any) -> None:
    shift = row_max(x)  # infinite: NaN, as 0 / 0 is
    for i in range(x.size):
        out[i] = math.exp(x[i] - shift)
    scale = x.dtype.type(1) / plain_sum(out)
    for i in range(x.size):
        out[i] *= scale


@jit()
def log_softmax_column(x: Any, out: Any) -> None:
    lse = log_sum_exp(x)
    for i in range(x.size):
        out[i] = x[i] - lse


@jit()
def softmax_backward_column(gy: Any, y: Any, out: Any) -> None:
    s = dot(gy, y)
    for i in range(y.size):
        out[i] = y[i] * (gy[i] - s)


@jit()
def log_softmax_backward_column(gy: Any, y: Any, out: Any) -> None:
    s = plain_sum(gy)
    for i in range(y.size):
        out[i] = gy[i] - math.exp(y[i]) * s


@parallel(work="x", grain=GRAIN)
def softmax(x: Any, out: Any) -> None:
    a, r, b = x.shape
    if b == 1:
        for i in prange(a):
            softmax_row(pointer_to(x), i * r, r, pointer_to(out))
    else:
        for i in prange(a * b):
            softmax_column(x[i // b, :, i % b], out[i // b, :, i % b])


@parallel(work="x", grain=GRAIN)
def log_softmax(x: Any, out: Any) -> None:
    a, r, b = x.shape
    if b == 1:
        for i in prange(a):
            log_softmax_row(pointer_to(x), i * r, r, pointer_to(out))
    else:
        for i in prange(a * b):
            log_softmax_column(x[i // b, :, i % b], out[i // b, :, i % b])


@jit(fastmath=REDUCE, inline=True)
def column_shift(x: Any, at: Any, n: Any, step: Any) -> Any:
    """``shift_of`` for n elements, ``step`` apart."""
    best = x[at]
    for k in range(1, n):
        best = max(best, x[at + k * step])
    return best if abs(best) < np.inf else x.dtype.type(0)


@jit(inline=True)
def spread_column(x: Any, at: Any, n: Any, step: Any, work: Any, to: Any, place: Any) -> None:
    """work = x - shift for one column; the shift goes to ``place``."""
    shift = column_shift(x, at, n, step)
    work[place] = shift
    for k in range(n):
        work[to + k * step] = x[at + k * step] - shift


@jit(fastmath=REDUCE, inline=True)
def column_sum(x: Any, at: Any, n: Any, step: Any) -> Any:
    total = x.dtype.type(0)
    for k in range(n):
        total += x[at + k * step]
    return total


@jit(fastmath=REDUCE)
def block_log_sum_exp(x: Any, a0: Any, samples: Any, c: Any, b: Any, work: Any, lse: Any) -> None:
    """lse of a block of samples (samples, C, B): all exponentials in one loop, which vectorises however few classes
    there are. ``work`` holds (samples, C, B) exponentials and (samples, B) shifts."""
    shifts = samples * c * b
    first = a0 * c * b
    if b == 1:  # with the step a literal, all is loops over neighbours
        for i in range(samples):
            spread_column(x, first + i * c, c, 1, work, i * c, shifts + i)
    else:
        for i in range(samples):
            for j in range(b):
                at = i * c * b + j
                spread_column(x, first + at, c, b, work, at, shifts + i * b + j)
    for at in range(shifts):
        work[at] = math.exp(work[at])
    if b == 1:
        for i in range(samples):
            lse[a0 + i] = column_sum(work, i * c, c, 1)
    else:
        for i in range(samples):
            for j in range(b):
                lse[(a0 + i) * b + j] = column_sum(work, i * c * b + j, c, b)
    for at in range(samples * b):
        lse[a0 * b + at] = work[shifts + at] + math.log(lse[a0 * b + at])


@jit()
def logsumexp(x: Any, out: Any) -> None:
    a, r, b = x.shape
    if b == 1:
        for i in range(a):
            out[i, 0] = log_sum_exp_row(pointer_to(x), i * r, r)
    else:
        for i in range(a * b):
            out[i // b, i % b] = log_sum_exp(x[i // b, :, i % b])


@parallel(work="y", grain=GRAIN)
def softmax_backward(gy: Any, y: Any, out: Any) -> None:
    a, r, b = y.shape
    if b == 1:
        for i in prange(a):
            softmax_backward_row(pointer_to(gy), pointer_to(y), i * r, r, pointer_to(out))
    else:
        for i in prange(a * b):
            softmax_backward_column(gy[i // b, :, i % b], y[i // b, :, i % b], out[i // b, :, i % b])


@parallel(work="y", grain=GRAIN)
def log_softmax_backward(gy: Any, y: Any, out: Any) -> None:
    a, r, b = y.shape
    if b == 1:
        for i in prange(a):
            log_softmax_backward_row(pointer_to(gy), pointer_to(y), i * r, r, pointer_to(out))
    else:
        for i in prange(a * b):
            log_softmax_backward_column(gy[i // b, :, i % b], y[i // b, :, i % b], out[i // b, :, i % b])


@parallel(work="x", grain=GRAIN)
def cross_entropy(
    x: Any, target: Any, ignore_index: Any, reduction: Any, out: Any, lse: Any, scale: Any, work: Any, status: Any
) -> None:
    a, c, b = x.shape
    if b == 1:
        for i in prange(a):
            lse[i, 0] = log_sum_exp_row(pointer_to(x), i * c, c)
    else:
        block = max(1, work.size // ((c + 1) * max(b, 1)))
        for a0 in range(0, a, block):
            block_log_sum_exp(x.reshape(-1), a0, min(block, a - a0), c, b, work, lse.reshape(-1))
    total = 0.0
    counted = 0
    for i in range(a):
        for j in range(b):
            top = lse[i, j]
            t = target[i, j]
            loss = x.dtype.type(0)
            if t != ignore_index:
                if 0 <= t < c:
                    loss = top - x[i, t, j]
                elif status[0] == 0:
                    status[0] = 1
                    status[1] = i * b + j
                    status[2] = t
                    status[3] = c - 1
                counted += 1
            total += loss
            if reduction == 2:
                out[i, j] = loss
    n = np.float64(counted)
    scale[0] = np.float64(1.0) / n if reduction == 0 else 1.0
    if reduction != 2:
        out[0, 0] = total / n if reduction == 0 else total


@jit()
def few_gradients(gy: Any, x: Any, target: Any, lse: Any, scale: Any, ignore_index: Any, out: Any) -> None:
    """The gradients of samples of a few classes, or of many places."""
    a, c, b = x.shape
    source, flat, tops = x.reshape(-1), out.reshape(-1), lse.reshape(-1)
    for i in range(a):
        for k in range(c):
            for j in range(b):
                at = (i * c + k) * b + j
                flat[at] = source[at] - tops[i * b + j]
    for at in range(flat.size):  # all exponentials in one loop, which vectorises however few classes there are
        flat[at] = math.exp(flat[at])
    for i in range(a):
        for j in range(b):
            t = target[i, j]
            g = scale[0] * (gy[i, j] if gy.size > 1 else gy[0, 0])
            first = i * c * b + j
            if t == ignore_index:
                for at in range(first, first + c * b, b):
                    flat[at] = 0
            else:
                for at in range(first, first + c * b, b):
                    flat[at] *= g
                flat[first + t * b] -= g


@parallel(work="x", grain=GRAIN)
def cross_entropy_backward(gy: Any, x: Any, target: Any, lse: Any, scale: Any, ignore_index: Any, out: Any) -> None:
    a, c, b = x.shape
    if b != 1:
        few_gradients(gy, x, target, lse, scale, ignore_index, out)
    else:
        for i in prange(a):
            t = target[i, 0]
            g = scale[0] * (gy[i, 0] if gy.size > 1 else gy[0, 0])
            if t == ignore_index:
                out[i, :, 0] = 0
            else:
                scaled_softmax_row(pointer_to(x), i * c, c, lse[i, 0], g, pointer_to(out))
                out[i, t, 0] -= g
