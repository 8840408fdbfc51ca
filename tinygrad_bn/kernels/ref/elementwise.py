"""Elementwise kernels, written independently of ``kernels/scalar.py``: the oracle of the lifted ones.

Operands broadcast as NumPy broadcasts them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _quiet(ufunc: Any, *arrays: Array, out: Array) -> None:
    with np.errstate(all="ignore"):
        np.copyto(out, ufunc(*arrays), casting="unsafe")


@spec()
def copy(x: Array, out: Array) -> None:
    """Copy with conversion; any strides on both sides."""
    with np.errstate(all="ignore"):
        np.copyto(out, x, casting="unsafe")


@spec()
def fill(value: float, out: Array) -> None:
    out.fill(value)


@spec()
def arange(start: float, step: float, out: Array) -> None:
    """out_i = start + i · step, computed in float64 or int64."""
    index = np.arange(out.size)
    np.copyto(out, (start + index * step).reshape(out.shape), casting="unsafe")


@spec()
def linspace(start: float, end: float, out: Array) -> None:
    """out.size numbers from start to end, both included."""
    out[:] = np.linspace(start, end, out.size)


@spec()
def neg(x: Array, out: Array) -> None:
    _quiet(np.negative, x, out=out)


@spec()
def abs(x: Array, out: Array) -> None:
    _quiet(np.absolute, x, out=out)


@spec()
def sign(x: Array, out: Array) -> None:
    _quiet(np.sign, x, out=out)


@spec()
def exp(x: Array, out: Array) -> None:
    _quiet(np.exp, x, out=out)


@spec()
def log(x: Array, out: Array) -> None:
    _quiet(np.log, x, out=out)


@spec()
def expm1(x: Array, out: Array) -> None:
    _quiet(np.expm1, x, out=out)


@spec()
def log1p(x: Array, out: Array) -> None:
    _quiet(np.log1p, x, out=out)


@spec()
def erf(x: Array, out: Array) -> None:
    """By the C library, in float64."""
    _quiet(np.vectorize(math.erf, otypes=[np.float64]), x, out=out)


@spec()
def sqrt(x: Array, out: Array) -> None:
    _quiet(np.sqrt, x, out=out)


@spec()
def tanh(x: Array, out: Array) -> None:
    _quiet(np.tanh, x, out=out)


@spec()
def sigmoid(x: Array, out: Array) -> None:
    """By the half-angle formula: (1 + tanh(x / 2)) / 2 near 0, e^x / (1 + e^x) below."""
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(x))
        np.copyto(out, np.where(np.signbit(x), e / (1 + e), 1 / (1 + e)), casting="unsafe")


@spec()
def relu(x: Array, out: Array) -> None:
    np.maximum(x, 0, out=out)


@spec()
def logical_not(x: Array, out: Array) -> None:
    np.logical_not(x, out=out)


@spec()
def add(x: Array, y: Array, out: Array) -> None:
    _quiet(np.add, x, y, out=out)


@spec()
def sub(x: Array, y: Array, out: Array) -> None:
    _quiet(np.subtract, x, y, out=out)


@spec()
def mul(x: Array, y: Array, out: Array) -> None:
    _quiet(np.multiply, x, y, out=out)


@spec()
def div(x: Array, y: Array, out: Array) -> None:
    _quiet(np.divide, x, y, out=out)


@spec()
def pow(x: Array, y: Array, out: Array) -> None:
    _quiet(np.power, x, y, out=out)


@spec()
def maximum(x: Array, y: Array, out: Array) -> None:
    _quiet(np.maximum, x, y, out=out)


@spec()
def minimum(x: Array, y: Array, out: Array) -> None:
    _quiet(np.minimum, x, y, out=out)


@spec()
def eq(x: Array, y: Array, out: Array) -> None:
    np.equal(x, y, out=out)


@spec()
def ne(x: Array, y: Array, out: Array) -> None:
    np.not_equal(x, y, out=out)


@spec()
def lt(x: Array, y: Array, out: Array) -> None:
    np.less(x, y, out=out)


@spec()
def le(x: Array, y: Array, out: Array) -> None:
    np.less_equal(x, y, out=out)


@spec()
def gt(x: Array, y: Array, out: Array) -> None:
    np.greater(x, y, out=out)


@spec()
def ge(x: Array, y: Array, out: Array) -> None:
    np.greater_equal(x, y, out=out)


@spec()
def logical_and(x: Array, y: Array, out: Array) -> None:
    np.logical_and(x, y, out=out)


@spec()
def logical_or(x: Array, y: Array, out: Array) -> None:
    np.logical_or(x, y, out=out)


@spec()
def sigmoid_backward(gy: Array, y: Array, out: Array) -> None:
    _quiet(lambda g, s: g * (s - s * s), gy, y, out=out)


@spec()
def tanh_backward(gy: Array, y: Array, out: Array) -> None:
    _quiet(lambda g, t: g * (1 - t) * (1 + t), gy, y, out=out)


@spec()
def relu_backward(gy: Array, x: Array, out: Array) -> None:
    _quiet(lambda g, v: np.where(np.isnan(v), v, np.where(v > 0, g, 0)), gy, x, out=out)


@spec()
def sqrt_backward(gy: Array, y: Array, out: Array) -> None:
    _quiet(lambda g, r: g * 0.5 / r, gy, y, out=out)


@spec()
def maximum_backward(gy: Array, x: Array, y: Array, out: Array) -> None:
    _quiet(lambda g, a, b: np.select([np.isnan(a), a > b, a == b], [g, g, g / 2], 0), gy, x, y, out=out)


@spec()
def where(condition: Array, x: Array, y: Array, out: Array) -> None:
    np.copyto(out, np.where(condition, x, y), casting="unsafe")


@spec()
def clamp(x: Array, low: Array, high: Array, out: Array) -> None:
    np.copyto(out, np.minimum(np.maximum(x, low), high), casting="unsafe")


@spec()
def within(x: Array, low: Array, high: Array, out: Array) -> None:
    np.logical_and(x >= low, x <= high, out=out)
