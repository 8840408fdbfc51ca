"""Activations of what is normalised, and their slopes, an element at a time.

    curve(z)            act(z)
    by_input(z, g)      g act'(z)
    by_output(y, g)     g act', by y = act(z): y > 0 of the rectifiers, y (1 - y), 1 - y²

    SiLU  z σ(z)     GELU  z Φ(z) = max(z, 0) - |z| Q(|z|), Q(a) = erfc(a / √2) / 2,  or z σ(√(8/π) (z + 0.044715 z³))

The codes of the activations are those of ``kernels/ref/batch_norm.py``, the formulas those of
``kernels/cpu/bn_activation.py``. σ by e^-|z|, which never overflows. Of a NaN, all are NaN.

Hendrycks & Gimpel 2016 (arXiv:1606.08415); Elfwing et al. 2018 (arXiv:1702.03118).
"""

from __future__ import annotations

import math
from typing import Any

from tinygrad_bn.kernels.cuda.entry import device
from tinygrad_bn.kernels.cuda.words import real

__all__ = ["bent", "by_input", "by_output", "curve", "tells"]

RELU, SIGMOID, LEAKY, TANH, SILU, GELU, GELU_TANH = 1, 2, 3, 4, 5, 6, 7


@device
def sigmoid(z: Any) -> Any:
    e = real(math.exp(-abs(z)))
    return (1.0 if z >= 0.0 else e) / (1.0 + e)


@device
def within(z: Any) -> Any:
    """z, at most 40 away from 0: further out, slopes are 0 or 1 in float64 too."""
    return -40.0 if z < -40.0 else (40.0 if z > 40.0 else z)


@device
def steeper(z: Any) -> Any:
    """√(8/π) (z + 0.044715 z³), z within."""
    return z * (1.5957691216057308 + 0.07135481627260025 * z * z)


@device
def tail(a: Any) -> Any:
    """The normal distribution above a, not negative."""
    return 0.5 * real(math.erfc(a * 0.7071067811865476))


@device
def curve(z: Any, act: Any, slope: Any) -> Any:
    if act == RELU:
        return 0.0 if z <= 0.0 else z
    if act == SIGMOID:
        return sigmoid(z)
    if act == LEAKY:
        return slope * z if z <= 0.0 else z
    if act == TANH:
        return real(math.tanh(z))
    if act == SILU:
        return z * sigmoid(z)
    if act == GELU:
        a = abs(within(z))
        return (0.0 if z <= 0.0 else z) - a * tail(a)
    if act == GELU_TANH:
        return z * sigmoid(steeper(within(z)))
    return z


@device
def by_input(z: Any, g: Any, act: Any, slope: Any) -> Any:
    if act == RELU:
        return 0.0 if z <= 0.0 else (g if z > 0.0 else z)
    if act == SIGMOID:
        s = sigmoid(z)
        return g * (s * sigmoid(-z))
    if act == LEAKY:
        return slope * g if z <= 0.0 else (g if z > 0.0 else z)
    if act == TANH:
        y = real(math.tanh(z))
        return g * (1.0 - y * y)
    c = within(z)
    if act == SILU:
        s = sigmoid(c)
        return g * (s + c * (s * sigmoid(-c)))
    if act == GELU:
        a = abs(c)
        above = tail(a)
        density = 0.3989422804014327 * real(math.exp(-0.5 * a * a))
        return g * ((1.0 - above if c > 0.0 else above) + c * density)
    if act == GELU_TANH:
        u = steeper(c)
        s = sigmoid(u)
        return g * (s + c * (s * sigmoid(-u)) * (1.5957691216057308 + 0.21406444881780073 * c * c))
    return g


@device
def by_output(y: Any, g: Any, act: Any, slope: Any) -> Any:
    """Not of SiLU and GELU, nor of a leaky ReLU that falls below 0."""
    if act == SIGMOID:
        return g * (y * (1.0 - y))
    if act == TANH:
        return g * (1.0 - y * y)
    return by_input(y, g, act, slope)


@device
def bent(g: Any, x: Any, k: Any, hi: Any, lo: Any, gain: Any, beta: Any, act: Any, slope: Any, role: Any) -> Any:
    """g act' at x, normalised; by k if that is the output (role 1), with k added if that is the residual (role 2)."""
    if act == 0:
        return g
    if role == 1:
        return by_output(k, g, act, slope)
    z = ((x - hi) - lo) * gain + beta
    if role == 2:
        z = z + k
    return by_input(z, g, act, slope)


def tells(act: int, slope: float) -> bool:
    """Return whether the output tells the slope."""
    return act <= TANH and slope >= 0
