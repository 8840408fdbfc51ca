"""Activations and the terms of losses, written independently of ``kernels/pointwise.py``: the oracle of those lifted.

Everything is computed in float64 from textbook formulas, by NumPy and the C library's erf; settings are arrays of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _wide(function: Callable[..., Any], *arrays: Array, out: Array) -> None:
    with np.errstate(all="ignore"):
        np.copyto(out, function(*[a.astype(np.float64) for a in arrays]), casting="unsafe")


def _normal(x: Array) -> Array:
    return np.asarray(_erfc(-x / math.sqrt(2)) / 2)


def _logistic(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, 1) / (1 + e))


def _cubic(x: Array) -> Array:
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


@spec()
def leaky_relu(x: Array, slope: Array, out: Array) -> None:
    _wide(lambda v, s: np.where(v < 0, s * v, v), x, slope, out=out)


@spec()
def leaky_relu_backward(gy: Array, x: Array, slope: Array, out: Array) -> None:
    _wide(lambda g, v, s: g * np.select([v > 0, v <= 0], [1, s], np.nan), gy, x, slope, out=out)


@spec()
def hardtanh_backward(gy: Array, x: Array, low: Array, high: Array, out: Array) -> None:
    _wide(lambda g, v, a, b: np.select([np.isnan(v), (a < v) & (v < b)], [np.nan, g], 0), gy, x, low, high, out=out)


@spec()
def elu(x: Array, low: Array, high: Array, rate: Array, out: Array) -> None:
    _wide(lambda v, a, b, r: b * np.maximum(v, 0) + a * np.expm1(r * np.minimum(v, 0)), x, low, high, rate, out=out)


@spec()
def elu_backward(gy: Array, x: Array, low: Array, high: Array, rate: Array, out: Array) -> None:
    _wide(
        lambda g, v, a, b, r: g * np.where(v > 0, b, a * r * np.exp(r * np.minimum(v, 0))),
        gy,
        x,
        low,
        high,
        rate,
        out=out,
    )


@spec()
def gelu(x: Array, out: Array) -> None:
    _wide(lambda v: v * _normal(v), x, out=out)


@spec()
def gelu_backward(gy: Array, x: Array, out: Array) -> None:
    _wide(lambda g, v: g * (_normal(v) + v * np.exp(-(v**2) / 2) / math.sqrt(2 * math.pi)), gy, x, out=out)


@spec()
def gelu_tanh(x: Array, out: Array) -> None:
    _wide(lambda v: v * _logistic(2 * _cubic(v)), x, out=out)


@spec()
def gelu_tanh_backward(gy: Array, x: Array, out: Array) -> None:
    """In s = (1 + tanh u) / 2: 1 - tanh²u = 4 s (1 - s)."""

    def slope(g: Array, v: Array) -> Array:
        s, rest = _logistic(2 * _cubic(v)), _logistic(-2 * _cubic(v))
        inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * v**2)
        return np.asarray(g * (s + 2 * v * s * rest * inner))

    _wide(slope, gy, x, out=out)


@spec()
def silu(x: Array, out: Array) -> None:
    _wide(lambda v: v * _logistic(v), x, out=out)


@spec()
def silu_backward(gy: Array, x: Array, out: Array) -> None:
    _wide(lambda g, v: g * (_logistic(v) + v * _logistic(v) * _logistic(-v)), gy, x, out=out)


@spec()
def mish(x: Array, out: Array) -> None:
    _wide(lambda v: v * np.tanh(_softplus(v)), x, out=out)


@spec()
def mish_backward(gy: Array, x: Array, out: Array) -> None:
    _wide(
        lambda g, v: g * (np.tanh(_softplus(v)) + v * _logistic(v) / np.cosh(_softplus(np.minimum(v, 300))) ** 2),
        gy,
        x,
        out=out,
    )


@spec()
def softplus(x: Array, beta: Array, threshold: Array, out: Array) -> None:
    _wide(lambda v, b, t: np.where(b * v > t, v, _softplus(b * v) / b), x, beta, threshold, out=out)


@spec()
def softplus_backward(gy: Array, x: Array, beta: Array, threshold: Array, out: Array) -> None:
    _wide(lambda g, v, b, t: np.where(b * v > t, g, g * _logistic(b * v)), gy, x, beta, threshold, out=out)


@spec()
def logsigmoid(x: Array, out: Array) -> None:
    _wide(lambda v: -_softplus(-v), x, out=out)


@spec()
def logsigmoid_backward(gy: Array, x: Array, out: Array) -> None:
    _wide(lambda g, v: g * _logistic(-v), gy, x, out=out)


@spec()
def huber(x: Array, delta: Array, scale: Array, out: Array) -> None:
    """Of the clipped value c: scale c (x - c/2)."""

    def value(v: Array, d: Array, s: Array) -> Array:
        c = np.clip(v, -d, d)
        return np.asarray(s * c * (v - c / 2))

    _wide(value, x, delta, scale, out=out)


@spec()
def huber_backward(gy: Array, x: Array, delta: Array, scale: Array, out: Array) -> None:
    _wide(lambda g, v, d, s: g * s * np.clip(v, -d, d), gy, x, delta, scale, out=out)


@spec()
def bce(x: Array, target: Array, out: Array) -> None:
    _wide(lambda p, t: -t * np.maximum(np.log(p), -100) - (1 - t) * np.maximum(np.log1p(-p), -100), x, target, out=out)


@spec()
def bce_backward(gy: Array, x: Array, target: Array, out: Array) -> None:
    _wide(lambda g, p, t: g * (p - t) / np.maximum(p - p**2, 1e-12), gy, x, target, out=out)


@spec()
def bce_logits(x: Array, target: Array, out: Array) -> None:
    _wide(lambda v, t: (1 - t) * _softplus(v) + t * _softplus(-v), x, target, out=out)


@spec()
def bce_logits_backward(gy: Array, x: Array, target: Array, out: Array) -> None:
    _wide(lambda g, v, t: g * ((1 - t) * _logistic(v) - t * _logistic(-v)), gy, x, target, out=out)
