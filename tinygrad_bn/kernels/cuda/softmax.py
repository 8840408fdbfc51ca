"""Softmax and its relatives over the middle axis of (A, R, B).

    softmax      y_r = e^(x_r - m) / Σ e^(x - m),  m = max x
    logsumexp    y = m + ln Σ e^(x - m)
    log_softmax  y_r = x_r - logsumexp(x)

A row (a, ·, b) is taken by a group of threads, as many as leave each about eight elements, and a block takes several
rows where they are short. With B = 1 a row's threads are neighbours, else rows are: either way neighbouring threads
read neighbouring elements. A thread reads its elements once for maximum and sum together (Milakov & Gimelshein 2018,
arXiv:1805.02867): Σ e^(x - m) is scaled by e^(m - m') where the maximum rises from m to m'. Threads are then merged in
a tree. The second reading, for the results, finds the row in a cache.

Rows with an infinite maximum give what the formulas give: NaN, and ±infinity of logsumexp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.cross_entropy import cross_entropy, cross_entropy_backward
from tinygrad_bn.kernels.cuda.entry import device, entry
from tinygrad_bn.kernels.cuda.maths import NAMES
from tinygrad_bn.kernels.cuda.softmax_rows import grid, place, row_sum, rows, shape
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import real

__all__ = [
    "cross_entropy",
    "cross_entropy_backward",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "softmax",
    "softmax_backward",
]

exp, log = NAMES["exp"], NAMES["log"]
SOFTMAX, LOG_SOFTMAX, LOGSUMEXP = 0, 1, 2


@device
def result(v: Any, top: Any, factor: Any, shift: Any, kind: Any) -> Any:
    return exp(v - top) * factor if kind == SOFTMAX else (v - top) - shift


@entry(static="kind")
def _rows(x: Any, out: Any, a: Any, r: Any, b: Any, bits: Any, kind: Any) -> None:
    tops = cuda.shared.array(THREADS, real)
    sums = cuda.shared.array(THREADS, real)
    lane, step, row, at = place(a, r, b, bits)
    count = r if row < a * b else 0
    top, total = rows(x, at, count, lane, step, b, bits, tops, sums)
    if kind == LOGSUMEXP:
        if lane == 0 and row < a * b:
            out[row] = top + log(total)
        return
    total = total if abs(top) < real(np.inf) else real(np.nan)
    factor, shift = 1.0 / total, log(total) if kind == LOG_SOFTMAX else real(0)
    lanes = 1 << bits
    k, far = lane, lanes * b
    while k + 3 * lanes < count:
        i = at + k * b
        v0, v1, v2, v3 = x[i], x[i + far], x[i + 2 * far], x[i + 3 * far]
        out[i] = result(v0, top, factor, shift, kind)
        out[i + far] = result(v1, top, factor, shift, kind)
        out[i + 2 * far] = result(v2, top, factor, shift, kind)
        out[i + 3 * far] = result(v3, top, factor, shift, kind)
        k += 4 * lanes
    while k < count:
        out[at + k * b] = result(x[at + k * b], top, factor, shift, kind)
        k += lanes


def _over_rows(kind: int, x: Any, out: Any) -> None:
    a, r, b, bits = shape(x)
    if a * b:
        _rows[grid(a * b, bits)](x, out, a, r, b, bits, kind)


def softmax(x: Any, out: Any) -> None:
    _over_rows(SOFTMAX, x, out)


def log_softmax(x: Any, out: Any) -> None:
    _over_rows(LOG_SOFTMAX, x, out)


def logsumexp(x: Any, out: Any) -> None:
    _over_rows(LOGSUMEXP, x, out)


@device
def term(g: Any, y: Any, kind: Any) -> Any:
    return g * y if kind == SOFTMAX else g


@device
def slope(g: Any, y: Any, total: Any, kind: Any) -> Any:
    return y * (g - total) if kind == SOFTMAX else g - exp(y) * total


@entry(static="kind")
def _rows_backward(gy: Any, y: Any, out: Any, a: Any, r: Any, b: Any, bits: Any, kind: Any) -> None:
    sums = cuda.shared.array(THREADS, real)
    lane, step, row, at = place(a, r, b, bits)
    count = r if row < a * b else 0
    lanes = 1 << bits
    k, far = lane, lanes * b
    s0 = s1 = s2 = s3 = real(0)
    while k + 3 * lanes < count:
        i = at + k * b
        s0 += term(gy[i], y[i], kind)
        s1 += term(gy[i + far], y[i + far], kind)
        s2 += term(gy[i + 2 * far], y[i + 2 * far], kind)
        s3 += term(gy[i + 3 * far], y[i + 3 * far], kind)
        k += 4 * lanes
    while k < count:
        s0 += term(gy[at + k * b], y[at + k * b], kind)
        k += lanes
    total = row_sum((s0 + s1) + (s2 + s3), lane, step, bits, sums)
    k = lane
    while k + 3 * lanes < count:
        i = at + k * b
        g0, g1, g2, g3 = gy[i], gy[i + far], gy[i + 2 * far], gy[i + 3 * far]
        y0, y1, y2, y3 = y[i], y[i + far], y[i + 2 * far], y[i + 3 * far]
        out[i] = slope(g0, y0, total, kind)
        out[i + far] = slope(g1, y1, total, kind)
        out[i + 2 * far] = slope(g2, y2, total, kind)
        out[i + 3 * far] = slope(g3, y3, total, kind)
        k += 4 * lanes
    while k < count:
        out[at + k * b] = slope(gy[at + k * b], y[at + k * b], total, kind)
        k += lanes


def _backward(kind: int, gy: Any, y: Any, out: Any) -> None:
    a, r, b, bits = shape(y)
    if a * b:
        _rows_backward[grid(a * b, bits)](gy, y, out, a, r, b, bits, kind)


def softmax_backward(gy: Any, y: Any, out: Any) -> None:
    _backward(SOFTMAX, gy, y, out)


def log_softmax_backward(gy: Any, y: Any, out: Any) -> None:
    _backward(LOG_SOFTMAX, gy, y, out)
