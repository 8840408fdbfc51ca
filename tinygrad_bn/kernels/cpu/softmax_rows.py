"""Softmax and its relatives of one row x[at : at + n], whose elements lie side by side: taken by the register.

    softmax      y_r = e^(x_r - m) / Σ e^(x - m),  m = max x
    logsumexp    y = m + ln Σ e^(x - m)
    log_softmax  y_r = x_r - logsumexp(x)

Arrays are given as pointers, ``pointer_to(array)``: a row is short, and references to it would cost more than it does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cpu import math
from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.choices import peak
from tinygrad_bn.kernels.cpu.exponent import exp_below
from tinygrad_bn.kernels.cpu.simd import (
    exp,
    first,
    fma,
    lanes,
    largest,
    load,
    load_first,
    prefetch,
    splat,
    store,
    store_first,
    total,
    zeros,
)

AHEAD = 1024  # elements that are asked for ahead of their use


@jit(inline=True)
def row_max(x: Any, at: Any, n: Any) -> Any:
    """The largest element; a NaN may be passed over, it shows in the sum."""
    size = lanes(x)
    m = x[at]
    if n >= size:
        last = at + n - size  # the last register overlaps the one ahead of it
        top, other = load(x, last), load(x, at)
        third, fourth = top, other
        for i in range(at + size, last, 4 * size):  # four at a time: each comparison waits for the one before it
            for k in range(4):
                prefetch(x, i + k * size + AHEAD)
            top = largest(top, load(x, i))
            other = largest(other, load(x, min(i + size, last)))
            third = largest(third, load(x, min(i + 2 * size, last)))
            fourth = largest(fourth, load(x, min(i + 3 * size, last)))
        m = peak(largest(largest(top, other), largest(third, fourth)))
    else:
        for i in range(at + 1, at + n):
            m = max(m, x[i])
    return m


@jit()
def softmax_row(x: Any, at: Any, n: Any, out: Any) -> None:
    size = lanes(x)
    shift = splat(row_max(x, at, n))  # infinite: NaN, as 0 / 0 is
    added = zeros(x)
    whole, rest = at + n // size * size, n % size
    for i in range(at, whole, size):
        e = exp_below(load(x, i) - shift)
        prefetch(out, i + AHEAD)
        store(out, i, e)
        added = added + e
    if rest:
        e = exp_below(load_first(x, whole, rest) - shift)
        store_first(out, whole, e, rest)
        added = added + first(e, rest)
    s = total(added)
    scale = splat(type(s)(1) / s)
    for i in range(at, whole, size):
        store(out, i, load(out, i) * scale)
    if rest:
        store_first(out, whole, load_first(out, whole, rest) * scale, rest)


@jit()
def log_sum_exp_row(x: Any, at: Any, n: Any) -> Any:
    size = lanes(x)
    m = row_max(x, at, n)
    added = zeros(x)
    whole, rest = at + n // size * size, n % size
    if not abs(m) < np.inf:  # NaN or infinity: as it is, m - m would be NaN
        for i in range(at, at + n, size):
            added = added + first(exp(load_first(x, i, at + n - i)), at + n - i)
        return math.log(total(added))
    shift = splat(m)
    for i in range(at, whole, size):
        added = added + exp_below(load(x, i) - shift)
    if rest:
        added = added + first(exp_below(load_first(x, whole, rest) - shift), rest)
    return m + math.log(total(added))


@jit()
def log_softmax_row(x: Any, at: Any, n: Any, out: Any) -> None:
    size = lanes(x)
    lse = splat(log_sum_exp_row(x, at, n))
    for i in range(at, at + n, size):
        store_first(out, i, load_first(x, i, at + n - i) - lse, at + n - i)


@jit()
def softmax_backward_row(gy: Any, y: Any, at: Any, n: Any, out: Any) -> None:
    size = lanes(y)
    added = zeros(y)
    for i in range(at, at + n, size):
        prefetch(gy, i + AHEAD)
        prefetch(y, i + AHEAD)
        prefetch(out, i + AHEAD)
        added = fma(load_first(gy, i, at + n - i), load_first(y, i, at + n - i), added)
    s = splat(total(added))
    for i in range(at, at + n, size):
        rest = at + n - i
        store_first(out, i, load_first(y, i, rest) * (load_first(gy, i, rest) - s), rest)


@jit()
def log_softmax_backward_row(gy: Any, y: Any, at: Any, n: Any, out: Any) -> None:
    size = lanes(y)
    added = zeros(y)
    for i in range(at, at + n, size):
        added = added + load_first(gy, i, at + n - i)
    s = splat(total(added))
    for i in range(at, at + n, size):
        rest = at + n - i
        store_first(out, i, load_first(gy, i, rest) - exp(load_first(y, i, rest)) * s, rest)


@jit()
def scaled_softmax_row(x: Any, at: Any, n: Any, lse: Any, g: Any, out: Any) -> None:
    """g e^(x - lse), lse at least x."""
    size = lanes(x)
    shift, factor = splat(lse), splat(g)
    whole, rest = at + n // size * size, n % size
    for i in range(at, whole, size):
        prefetch(x, i + AHEAD)
        prefetch(out, i + AHEAD)
        store(out, i, exp_below(load(x, i) - shift) * factor)
    if rest:
        store_first(out, whole, exp_below(load_first(x, whole, rest) - shift) * factor, rest)
