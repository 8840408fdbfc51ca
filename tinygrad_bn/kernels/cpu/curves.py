"""Curves of activations on registers: float32 by polynomials, float64 by the C library.

    sigmoid(z)         1 / (1 + e^-z)
    tanh(z)            (e^2z - 1) / (e^2z + 1) = u / (u + 2), u = e^2z - 1 without cancellation
    tail(a, density)   Q(a) = erfc(a / √2) / 2 for a >= 0, given e^(-a²/2)

The polynomials are those of ``math.py`` and ``special.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from tinygrad_bn.kernels.cpu._jit import ENABLED, jit
from tinygrad_bn.kernels.cpu.choices import constant, erfc_lanes, tanh_lanes
from tinygrad_bn.kernels.cpu.simd import exp, largest, smallest
from tinygrad_bn.kernels.cpu.special import erfcx_f32

_F4 = np.float32

if ENABLED:
    from tinygrad_bn.kernels.cpu.simd import _pow2, _rint
    from tinygrad_bn.kernels.cpu.vector import VECTORS

    @jit(inline=True)
    def _tanh_f32(z: Any) -> Any:
        """u as in ``special.expm1_f32``; at 10 the result is 1, and nothing overflows."""
        x = smallest(largest(z, constant(z, -10.0)), constant(z, 10.0)) * _F4(2.0)
        n = _rint(x * _F4(1.44269504))
        r = x - n * _F4(0.693359375)
        r = r - n * _F4(-2.12194440e-4)
        p = r * _F4(1.9875691500e-4) + _F4(1.3981999507e-3)
        p = p * r + _F4(8.3334519073e-3)
        p = p * r + _F4(4.1665795894e-2)
        p = p * r + _F4(1.6666665459e-1)
        p = p * r + _F4(5.0000001201e-1)
        p = p * (r * r) + r
        scale = _pow2(n)
        u = scale * p + (scale - _F4(1.0))
        return u / (u + _F4(2.0))

    @jit(inline=True)
    def _tail_f32(a: Any, density: Any) -> Any:
        return erfcx_f32(a * _F4(0.70710678)) * density * _F4(0.5)

    @jit(inline=True)
    def _tail_f64(a: Any) -> Any:
        return erfc_lanes(a * 0.7071067811865476) * 0.5

    def tanh(z: Any) -> Any:
        """tanh of every lane."""

    @overload(tanh, strict=False)
    def _tanh(z: Any) -> Any:
        if z is VECTORS[types.float32]:
            return lambda z: _tanh_f32(z)
        return lambda z: tanh_lanes(z)

    def tail(a: Any, density: Any) -> Any:
        """The normal distribution above a, of every lane."""

    @overload(tail, strict=False)
    def _tail(a: Any, density: Any) -> Any:
        if a is VECTORS[types.float32]:
            return lambda a, density: _tail_f32(a, density)
        return lambda a, density: _tail_f64(a)

else:
    tanh = tanh_lanes

    def tail(a: Any, density: Any) -> Any:
        """The normal distribution above a, of every lane."""
        return erfc_lanes(a * np.sqrt(a.dtype.type(0.5))) / 2


@jit(inline=True)
def sigmoid(z: Any) -> Any:
    """1 / (1 + e^-z) of every lane."""
    one = constant(z, 1.0)
    return one / (one + exp(constant(z, 0.0) - z))
