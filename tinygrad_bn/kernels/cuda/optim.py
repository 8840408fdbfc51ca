"""Optimiser updates over all parameters at once, through a table of addresses (see ``kernels/ref/optim.py``).

Table, numbers and steps lie on the GPU, and the host looks at none of them: ``tables`` says how blocks share the work.
Steps are counted by a small launch ahead of the update, since its blocks run in any order.

Elements are computed in their own type, by the formulas of ``kernels/cpu/optim.py``; what depends on a row's step is
computed by one thread a row and block. There 1 - β^t = -expm1(t log1p(-(1 - β))), which loses nothing in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from tinygrad_bn.kernels.cuda.entry import Entry, blocks, device, entry
from tinygrad_bn.kernels.cuda.maths import NAMES
from tinygrad_bn.kernels.cuda.tables import Column, grid, update
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.vector import at, load4

__all__ = ["adagrad", "adam", "rmsprop", "scale", "sgd", "square_sums"]

expm1, log1p, sqrt = NAMES["expm1"], NAMES["log1p"], NAMES["sqrt"]
F = TypeVar("F", bound=Callable[..., None])
SUMMING = 4 * THREADS


@entry
def _advance(table: Any, like: Any, rows: Any, width: Any, found: Any, guard: Any) -> None:
    """Count a step of every row: the last array of a row."""
    r = cuda.grid(1)
    if guard == 0 or found[0] == 0:
        while r < rows:
            steps = at(table[r * width + width - 2], like)
            steps[0] += 1.0
            r += cuda.gridsize(1)


@device
def sgd_one(
    p: Any, g: Any, b: Any, first: Any, sign: Any, lr: Any, momentum: Any, rest: Any, decay: Any, nesterov: Any
) -> Any:
    """Parameter and momentum buffer."""
    d = sign * g + decay * p
    if momentum != 0.0:
        b = d if first != 0.0 else momentum * b + rest * d
        d = d + momentum * b if nesterov else b
    return p - lr * d, b


_sgd = update(
    "_sgd",
    [Column("p"), Column("g", False), Column("b", used="momentum != 0.0")],
    sgd_one,
    "first, sign, lr, momentum, rest, decay, nesterov",
    [
        "lr, momentum, decay = real(hyper[0]), real(hyper[1]), real(hyper[3])",
        "rest, nesterov = real(np.float64(1) - hyper[2]), real(hyper[4]) != 0.0",
        "sign = real(-1) if real(hyper[5]) != 0.0 else real(1)",
    ],
    globals(),
    {"first": ["first = real(1) if step == 1 else real(0)"]},
)


@device
def adam_one(
    p: Any, g: Any, m: Any, v: Any, top: Any, sign: Any, step: Any, root: Any, beta1: Any, beta2: Any,
    rest1: Any, rest2: Any, eps: Any, decay: Any, shrink: Any, amsgrad: Any,
) -> Any:  # fmt: skip
    """Parameter, first moment, second moment, largest second moment.

    step = lr / (1 - beta1^t), root = 1 / √(1 - beta2^t), shrink = 1 - lr · decoupled decay.
    """
    d = sign * g + decay * p
    m = beta1 * m + rest1 * d
    v = beta2 * v + rest2 * d * d
    second = v
    if amsgrad:
        top = v if v > top or v != v else top  # NaN stays
        second = top
    return p * shrink - step * m / (sqrt(second) * root + eps), m, v, top


@device
def correction(step: Any, rest: Any) -> Any:
    """1 - β^t, for rest = 1 - β."""
    return -expm1(step * log1p(-rest))


_adam = update(
    "_adam",
    [Column("p"), Column("g", False), Column("m"), Column("v"), Column("w", used="amsgrad")],
    adam_one,
    "sign, rate, root, beta1, beta2, rest1, rest2, eps, decay, shrink, amsgrad",
    [
        "beta1, beta2, eps = real(hyper[1]), real(hyper[2]), real(hyper[3])",
        "rest1, rest2 = real(np.float64(1) - hyper[1]), real(np.float64(1) - hyper[2])",
        "decoupled, amsgrad = real(hyper[5]) != 0.0, real(hyper[6]) != 0.0",
        "decay = real(0) if decoupled else real(hyper[4])",
        "shrink = real(np.float64(1) - hyper[0] * hyper[4]) if decoupled else real(1)",
        "sign = real(-1) if real(hyper[7]) != 0.0 else real(1)",
    ],
    globals(),
    {
        "rate": ["rate = real(hyper[0]) / correction(step, rest1)"],
        "root": ["root = real(1) / sqrt(correction(step, rest2))"],
    },
)


@device
def adagrad_one(p: Any, g: Any, s: Any, sign: Any, rate: Any, eps: Any, decay: Any) -> Any:
    """Parameter and sum of squares; rate = lr / (1 + (t - 1) lr_decay)."""
    d = sign * g + decay * p
    s = s + d * d
    return p - rate * d / (sqrt(s) + eps), s


_adagrad = update(
    "_adagrad",
    [Column("p"), Column("g", False), Column("s")],
    adagrad_one,
    "sign, rate, eps, decay",
    ["eps, decay = real(hyper[2]), real(hyper[3])", "sign = real(-1) if real(hyper[4]) != 0.0 else real(1)"],
    globals(),
    {"rate": ["rate = real(hyper[0] / (np.float64(1) + np.float64(step - real(1)) * hyper[1]))"]},
)


@device
def rmsprop_one(
    p: Any, g: Any, v: Any, b: Any, m: Any, sign: Any, lr: Any, alpha: Any, rest: Any, eps: Any, decay: Any,
    momentum: Any, centered: Any,
) -> Any:  # fmt: skip
    """Parameter, mean square, momentum buffer, mean gradient."""
    d = sign * g + decay * p
    v = alpha * v + rest * d * d
    second = v
    if centered:
        m = alpha * m + rest * d
        second = second - m * m
        second = 0.0 if second < 0.0 else second
    d = d / (sqrt(second) + eps)
    if momentum != 0.0:
        b = momentum * b + d
        d = b
    return p - lr * d, v, b, m


_rmsprop = update(
    "_rmsprop",
    [
        Column("p"), Column("g", False), Column("v"), Column("b", used="momentum != 0.0"),
        Column("m", used="centered"),
    ],
    rmsprop_one,
    "sign, lr, alpha, rest, eps, decay, momentum, centered",
    [
        "lr, alpha, eps, decay = real(hyper[0]), real(hyper[1]), real(hyper[2]), real(hyper[3])",
        "rest, momentum, centered = real(np.float64(1) - hyper[1]), real(hyper[4]), real(hyper[5]) != 0.0",
        "sign = real(-1) if real(hyper[6]) != 0.0 else real(1)",
    ],
    globals(),
    {},
)  # fmt: skip


def _updated(kernel: Entry, table: Any, like: Any, hyper: Any, found: Any = None) -> None:
    if len(table):
        rows, width = table.shape
        guard, found = (0, hyper) if found is None else (1, found)
        _advance[blocks(rows)](table, like, rows, width, found, guard)
        kernel[grid()](table, like, hyper, rows, 4 * like.itemsize, found, guard)


def _guarded(kernel: Entry) -> Callable[[F], F]:
    """Say how the same update is done only where the first element of an array is 0: ``core.guard`` asks for it."""

    def mark(function: F) -> F:
        function.__dict__["guarded"] = partial(_updated, kernel)
        return function

    return mark


@_guarded(_sgd)
def sgd(table: Any, like: Any, hyper: Any) -> None:
    _updated(_sgd, table, like, hyper)


@_guarded(_adam)
def adam(table: Any, like: Any, hyper: Any) -> None:
    _updated(_adam, table, like, hyper)


@_guarded(_adagrad)
def adagrad(table: Any, like: Any, hyper: Any) -> None:
    _updated(_adagrad, table, like, hyper)


@_guarded(_rmsprop)
def rmsprop(table: Any, like: Any, hyper: Any) -> None:
    _updated(_rmsprop, table, like, hyper)


@entry(threads=SUMMING)
def _square_sums(table: Any, like: Any, out: Any, quad: Any) -> None:
    """A block a row. Squares are of float64, of which this needs less than the memory allows: those of float32 would
    overflow at 2e19, and so would the norm of a gradient that is finite."""
    sums = cuda.shared.array(SUMMING, np.float64)
    t = cuda.threadIdx.x
    address, n = table[2 * cuda.blockIdx.x], table[2 * cuda.blockIdx.x + 1]
    x = at(address, like)
    total = other = third = fourth = np.float64(0)
    whole = n & -4 if address & (quad - 1) == 0 else 0
    for i in range(4 * t, whole, 4 * SUMMING):
        a, b, c, d = load4(x, i)
        total += np.float64(a) * np.float64(a)
        other += np.float64(b) * np.float64(b)
        third += np.float64(c) * np.float64(c)
        fourth += np.float64(d) * np.float64(d)
    for i in range(whole + t, n, SUMMING):
        a = x[i]
        total += np.float64(a) * np.float64(a)
    sums[t] = (total + other) + (third + fourth)
    half = SUMMING // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            sums[t] += sums[t + half]
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = sums[0]


def square_sums(table: Any, like: Any, out: Any) -> None:
    if len(table):
        _square_sums[len(table)](table, like, out, 4 * like.itemsize)


@device
def scaled(x: Any, factor: Any) -> Any:
    return x * factor


_scale = update("_scale", [Column("x")], scaled, "factor", ["factor = real(hyper[0])"], globals())


def scale(table: Any, like: Any, factor: Any) -> None:
    if len(table):
        _scale[grid()](table, like, factor, len(table), 4 * like.itemsize, factor, 0)
