"""Optimiser updates over all parameters at once, through a table of addresses (see ``kernels/ref/optim.py``).

A row holds the addresses of a parameter's arrays and, last, their number of elements. Large parameters are cut into
PARTS equal stretches, so that a core updates the rows of a weight whose gradient it computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.simd import array_at

PARTS = 16
WHOLE = 4096  # elements below which a parameter is not cut
GRAIN = 1 << 15


@jit(inline=True)
def stretch(size: Any, row: Any, part: Any) -> Any:
    """The elements of a row's parameter that a part updates."""
    if size < WHOLE:
        return (0, size) if row % PARTS == part else (0, 0)
    return size * part // PARTS // 16 * 16, (size * (part + 1) // PARTS // 16 * 16 if part + 1 < PARTS else size)


def _elements(table: Any, like: Any, hyper: Any) -> int:
    return hyper[-1]  # type: ignore[no-any-return]


@jit(inline=True)
def sgd_stretch(
    p: Any, g: Any, b: Any, first: Any, sign: Any, lr: Any, momentum: Any, rest: Any, decay: Any, nesterov: Any
) -> None:
    for i in range(p.size):
        d = sign * g[i] + decay * p[i]
        if momentum != 0:
            m = d if first else momentum * b[i] + rest * d
            b[i] = m
            d = d + momentum * m if nesterov else m
        p[i] -= lr * d


@parallel(work=_elements, grain=GRAIN)
def sgd(table: Any, like: Any, hyper: Any) -> None:
    real = like.dtype.type
    lr, momentum, rest, decay = real(hyper[0]), real(hyper[1]), real(1.0 - hyper[2]), real(hyper[3])
    sign = real(-1.0 if hyper[5] != 0 else 1.0)
    for part in prange(PARTS):
        for row in range(table.shape[0]):
            n = table[row, 4]
            lo, hi = stretch(n, row, part)
            if lo < hi:
                p = array_at(table[row, 0], n, like)[lo:hi]
                g = array_at(table[row, 1], n, like)[lo:hi]
                b = array_at(table[row, 2], n if momentum != 0 else 0, like)
                b = b[lo:hi] if momentum != 0 else b
                first = array_at(table[row, 3], 1, like)[0] == 0
                sgd_stretch(p, g, b, first, sign, lr, momentum, rest, decay, hyper[4] != 0)
    for row in range(table.shape[0]):
        array_at(table[row, 3], 1, like)[0] += real(1.0)


@jit(inline=True)
def adam_stretch(
    p: Any, g: Any, m: Any, v: Any, top: Any, sign: Any, step: Any, root: Any, beta1: Any, beta2: Any,
    rest1: Any, rest2: Any, eps: Any, decay: Any, shrink: Any, amsgrad: Any,
) -> None:  # fmt: skip
    """step = lr / (1 - beta1^t), root = 1 / √(1 - beta2^t), shrink = 1 - lr · decoupled decay.

    rest1 = 1 - beta1 and rest2 = 1 - beta2 are taken in float64: 1 - 0.999 in float32 is off by 1.3e-5.
    """
    for i in range(p.size):
        d = sign * g[i] + decay * p[i]
        m[i] = beta1 * m[i] + rest1 * d
        v[i] = beta2 * v[i] + rest2 * d * d
        second = v[i]
        if amsgrad:
            second = max(top[i], second)
            top[i] = second
        p[i] = p[i] * shrink - step * m[i] / (np.sqrt(second) * root + eps)


@parallel(work=_elements, grain=GRAIN)
def adam(table: Any, like: Any, hyper: Any) -> None:
    real = like.dtype.type
    lr, beta1, beta2 = hyper[0], hyper[1], hyper[2]
    decoupled, amsgrad = hyper[5] != 0, hyper[6] != 0
    sign = real(-1.0 if hyper[7] != 0 else 1.0)
    for row in range(table.shape[0]):
        array_at(table[row, 5], 1, like)[0] += real(1.0)
    for part in prange(PARTS):
        for row in range(table.shape[0]):
            n = table[row, 6]
            lo, hi = stretch(n, row, part)
            if lo < hi:
                t = np.float64(array_at(table[row, 5], 1, like)[0])
                top = array_at(table[row, 4], n if amsgrad else 0, like)
                adam_stretch(
                    array_at(table[row, 0], n, like)[lo:hi],
                    array_at(table[row, 1], n, like)[lo:hi],
                    array_at(table[row, 2], n, like)[lo:hi],
                    array_at(table[row, 3], n, like)[lo:hi],
                    top[lo:hi] if amsgrad else top,
                    sign,
                    real(lr / (1.0 - beta1**t)),
                    real(1.0 / np.sqrt(1.0 - beta2**t)),
                    real(beta1),
                    real(beta2),
                    real(1.0 - beta1),
                    real(1.0 - beta2),
                    real(hyper[3]),
                    real(0.0 if decoupled else hyper[4]),
                    real(1.0 - lr * hyper[4] if decoupled else 1.0),
                    amsgrad,
                )


@jit(inline=True)
def adagrad_stretch(p: Any, g: Any, s: Any, sign: Any, rate: Any, eps: Any, decay: Any) -> None:
    """rate = lr / (1 + (t - 1) lr_decay)."""
    for i in range(p.size):
        d = sign * g[i] + decay * p[i]
        s[i] += d * d
        p[i] -= rate * d / (np.sqrt(s[i]) + eps)


@parallel(work=_elements, grain=GRAIN)
def adagrad(table: Any, like: Any, hyper: Any) -> None:
    real = like.dtype.type
    sign = real(-1.0 if hyper[4] != 0 else 1.0)
    for part in prange(PARTS):
        for row in range(table.shape[0]):
            n = table[row, 4]
            lo, hi = stretch(n, row, part)
            if lo < hi:
                before = np.float64(array_at(table[row, 3], 1, like)[0])
                adagrad_stretch(
                    array_at(table[row, 0], n, like)[lo:hi],
                    array_at(table[row, 1], n, like)[lo:hi],
                    array_at(table[row, 2], n, like)[lo:hi],
                    sign,
                    real(hyper[0] / (1.0 + before * hyper[1])),
                    real(hyper[2]),
                    real(hyper[3]),
                )
    for row in range(table.shape[0]):
        array_at(table[row, 3], 1, like)[0] += real(1.0)


@jit(inline=True)
def rmsprop_stretch(
    p: Any, g: Any, v: Any, b: Any, m: Any, sign: Any, lr: Any, alpha: Any, rest: Any, eps: Any, decay: Any,
    momentum: Any, centered: Any,
) -> None:  # fmt: skip
    """rest = 1 - alpha, taken in float64."""
    zero = p.dtype.type(0)
    for i in range(p.size):
        d = sign * g[i] + decay * p[i]
        second = alpha * v[i] + rest * d * d
        v[i] = second
        if centered:
            mean = alpha * m[i] + rest * d
            m[i] = mean
            second = second - mean * mean
            second = zero if second < zero else second
        d = d / (np.sqrt(second) + eps)
        if momentum != 0:
            d = momentum * b[i] + d
            b[i] = d
        p[i] -= lr * d


@parallel(work=_elements, grain=GRAIN)
def rmsprop(table: Any, like: Any, hyper: Any) -> None:
    real = like.dtype.type
    momentum, centered = real(hyper[4]), hyper[5] != 0
    sign = real(-1.0 if hyper[6] != 0 else 1.0)
    for part in prange(PARTS):
        for row in range(table.shape[0]):
            n = table[row, 6]
            lo, hi = stretch(n, row, part)
            if lo < hi:
                b = array_at(table[row, 3], n if momentum != 0 else 0, like)
                m = array_at(table[row, 4], n if centered else 0, like)
                rmsprop_stretch(
                    array_at(table[row, 0], n, like)[lo:hi],
                    array_at(table[row, 1], n, like)[lo:hi],
                    array_at(table[row, 2], n, like)[lo:hi],
                    b[lo:hi] if momentum != 0 else b,
                    m[lo:hi] if centered else m,
                    sign,
                    real(hyper[0]),
                    real(hyper[1]),
                    real(1.0 - hyper[1]),
                    real(hyper[2]),
                    real(hyper[3]),
                    momentum,
                    centered,
                )
    for row in range(table.shape[0]):
        array_at(table[row, 5], 1, like)[0] += real(1.0)


@jit()
def square_sum(x: Any) -> Any:
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


@jit()
def square_sums(table: Any, like: Any, out: Any) -> None:
    for row in range(table.shape[0]):
        out[row] = square_sum(array_at(table[row, 0], table[row, 1], like))


@jit()
def scale(table: Any, like: Any, factor: Any) -> None:
    f = like.dtype.type(factor[0])
    for row in range(table.shape[0]):
        x = array_at(table[row, 0], table[row, 1], like)
        for i in range(x.size):
            x[i] *= f
