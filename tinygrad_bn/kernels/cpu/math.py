"""exp, log and tanh for CPU kernels: float32 by polynomials that vectorise, float64 by the C library.

The polynomials are those of Cephes (S. Moshier, public domain: expf, logf, tanhf), about 1.5 ulp with fused
multiply-adds. Overflow gives infinity, underflow goes through the subnormals to 0, NaN stays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from tinygrad_bn.kernels.cpu._jit import ENABLED, jit

f4 = np.float32
i4 = np.int32


@jit()
def pow2_f32(n: Any) -> Any:
    """2^n for a whole n of -126 … 127, by its bits."""
    return i4((i4(n) + i4(127)) << i4(23)).view(np.float32)


@jit(inline=True)
def exp_core(x: Any, n: Any) -> Any:
    """e^r of r = x - n ln 2, |r| <= ln(2) / 2, of a number or of the lanes of a vector."""
    r = x - n * f4(0.693359375)
    r = r - n * f4(-2.12194440e-4)
    p = r * f4(1.9875691500e-4) + f4(1.3981999507e-3)
    p = p * r + f4(8.3334519073e-3)
    p = p * r + f4(4.1665795894e-2)
    p = p * r + f4(1.6666665459e-1)
    p = p * r + f4(5.0000001201e-1)
    return p * (r * r) + r + f4(1.0)


@jit()
def exp_f32(x: Any) -> Any:
    """e^x = 2^n e^r with n = round(x / ln 2); the scale in two factors reaches both extremes."""
    x = f4(-104.0) if x < f4(-104.0) else x
    x = f4(89.0) if x > f4(89.0) else x
    n = np.rint(x * f4(1.44269504))
    half = np.rint(n * f4(0.5))
    return exp_core(x, n) * pow2_f32(half) * pow2_f32(n - half)


@jit()
def log_f32(x: Any) -> Any:
    """ln x = e ln 2 + ln m for x = 2^e m, sqrt(1/2) <= m < sqrt(2)."""
    tiny = x < f4(1.17549435e-38)
    scaled = x * f4(8388608.0) if tiny else x
    bits = f4(scaled).view(np.int32)
    e = f4((bits >> i4(23)) - i4(126)) - (f4(23.0) if tiny else f4(0.0))
    m = i4((bits & i4(0x007FFFFF)) | i4(0x3F000000)).view(np.float32)
    low = m < f4(0.707106781186547524)
    e = e - f4(1.0) if low else e
    m = (m + m if low else m) - f4(1.0)
    z = m * m
    p = f4(7.0376836292e-2)
    p = p * m + f4(-1.1514610310e-1)
    p = p * m + f4(1.1676998740e-1)
    p = p * m + f4(-1.2420140846e-1)
    p = p * m + f4(1.4249322787e-1)
    p = p * m + f4(-1.6668057665e-1)
    p = p * m + f4(2.0000714765e-1)
    p = p * m + f4(-2.4999993993e-1)
    p = p * m + f4(3.3333331174e-1)
    y = p * m * z + e * f4(-2.12194440e-4) - f4(0.5) * z
    y = (m + y) + e * f4(0.693359375)
    y = y if x < f4(np.inf) else x
    y = f4(-np.inf) if x == f4(0.0) else y
    return f4(np.nan) if x < f4(0.0) else y


@jit()
def tanh_f32(x: Any) -> Any:
    """An odd polynomial below 0.625; sign(x) (1 - 2 / (e^2|x| + 1)) above."""
    a = -x if x < f4(0.0) else x
    z = x * x
    p = f4(-5.70498872745e-3)
    p = p * z + f4(2.06390887954e-2)
    p = p * z + f4(-5.37397155531e-2)
    p = p * z + f4(1.33314422036e-1)
    p = p * z + f4(-3.33332819422e-1)
    small = p * z * x + x
    large = f4(1.0) - f4(2.0) / (exp_f32(a + a) + f4(1.0))
    large = -large if x < f4(0.0) else large
    return small if a < f4(0.625) else large


def exp(x: Any) -> Any:
    return np.exp(x)


def log(x: Any) -> Any:
    return np.log(x)


def tanh(x: Any) -> Any:
    return np.tanh(x)


def sqrt(x: Any) -> Any:
    return np.sqrt(x)


def by_dtype(function: Any, single: Any, double: Any) -> None:
    """Let compiled code call ``function`` for a float32 by our polynomial, for a float64 by the C library."""

    def choose(x: Any) -> Any:
        if x is types.float32:
            return lambda x: single(x)
        return lambda x: double(x)

    overload(function, strict=False)(choose)


if ENABLED:
    by_dtype(exp, exp_f32, math.exp)
    by_dtype(log, log_f32, np.log)
    by_dtype(tanh, tanh_f32, math.tanh)
    by_dtype(sqrt, np.sqrt, np.sqrt)
