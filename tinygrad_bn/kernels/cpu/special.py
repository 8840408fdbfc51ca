"""erf, ndtr, expm1 and log1p for CPU kernels: float32 by polynomials that vectorise where they are inlined, float64
by the C library.

    erf(a) = a P(a²)  below 1,  1 - e^(-a²) erfcx(a)  from 1 on,  erfcx(a) = e^(a²) erfc(a) = t Q(t),  t = 1 / (1 + a/2)
    ndtr(x) = Φ(x) = erfc(-x/√2) / 2, the normal distribution: its lower tail keeps its relative accuracy
    expm1(x) = 2^n (e^r - 1) + 2^n - 1 with the polynomial of ``math.exp``
    log1p(x) = ln u + (x - (u - 1)) / u with u = 1 + x as it is rounded

P and Q are minimax fits (Lawson's iteration on Chebyshev points) to the functions in float64, right to 2e-8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cpu._jit import ENABLED, jit
from tinygrad_bn.kernels.cpu.math import by_dtype, exp_f32, log_f32, pow2_f32

f4 = np.float32
i4 = np.int32


@jit(inline=True)
def erfcx_f32(a: Any) -> Any:
    """e^(a²) erfc(a) for a >= 0."""
    t = f4(1.0) / (f4(1.0) + f4(0.5) * a)
    p = f4(0.0116845062)
    p = p * t + f4(-0.120071642)
    p = p * t + f4(0.421636373)
    p = p * t + f4(-0.66059041)
    p = p * t + f4(0.413705587)
    p = p * t + f4(-0.0944224447)
    p = p * t + f4(0.224260226)
    p = p * t + f4(0.238904029)
    p = p * t + f4(0.282827884)
    p = p * t + f4(0.282065898)
    return p * t


@jit(inline=True)
def gauss_f32(x: Any) -> Any:
    """e^(-x²/2): x = h + l where h² is exact, or the square's rounding would show as 1e-5 of the result in the tail."""
    x = f4(15.0) if x > f4(15.0) else x
    h = i4(f4(x).view(np.int32) & i4(-4096)).view(np.float32)
    d = f4(-0.5) * (x - h) * (x + h)
    return exp_f32(f4(-0.5) * h * h) * (f4(1.0) + d * (f4(1.0) + d * (f4(0.5) + d * f4(0.16666667))))


@jit(inline=True)
def erf_f32(x: Any) -> Any:
    a = -x if x < f4(0.0) else x
    z = a * a
    p = f4(7.8891193e-05)
    p = p * z + f4(-0.000802084105)
    p = p * z + f4(0.00518953521)
    p = p * z + f4(-0.0268544443)
    p = p * z + f4(0.112836003)
    p = p * z + f4(-0.37612626)
    p = p * z + f4(0.12837917)
    small = p * x + x
    large = f4(1.0) - erfcx_f32(a) * exp_f32(-z)
    large = -large if x < f4(0.0) else large
    return small if a < f4(1.0) else large


@jit(inline=True)
def ndtr_f32(x: Any) -> Any:
    a = -x if x < f4(0.0) else x
    tail = f4(0.5) * erfcx_f32(a * f4(0.70710678)) * gauss_f32(a)
    return tail if x < f4(0.0) else f4(1.0) - tail


@jit(inline=True)
def expm1_f32(x: Any) -> Any:
    x = f4(-104.0) if x < f4(-104.0) else x
    x = f4(89.0) if x > f4(89.0) else x
    n = np.rint(x * f4(1.44269504))
    r = x - n * f4(0.693359375)
    r = r - n * f4(-2.12194440e-4)
    p = f4(1.9875691500e-4)
    p = p * r + f4(1.3981999507e-3)
    p = p * r + f4(8.3334519073e-3)
    p = p * r + f4(4.1665795894e-2)
    p = p * r + f4(1.6666665459e-1)
    p = p * r + f4(5.0000001201e-1)
    p = p * (r * r) + r
    half = np.rint(n * f4(0.5))
    low, high = pow2_f32(half), pow2_f32(n - half)
    return high * (low * p + (low - pow2_f32(half - n)))


@jit(inline=True)
def log1p_f32(x: Any) -> Any:
    u = f4(1.0) + x
    y = log_f32(u)
    return y + (x - (u - f4(1.0))) / u if abs(y) < f4(np.inf) else y


@jit(inline=True)
def ndtr_f64(x: Any) -> Any:
    return 0.5 * math.erfc(x * -0.7071067811865476)


def erf(x: Any) -> Any:
    return type(x)(math.erf(x))


def ndtr(x: Any) -> Any:
    return type(x)(0.5 * math.erfc(x * -0.7071067811865476))


def expm1(x: Any) -> Any:
    return np.expm1(x)


def log1p(x: Any) -> Any:
    return np.log1p(x)


if ENABLED:
    by_dtype(erf, erf_f32, math.erf)
    by_dtype(ndtr, ndtr_f32, ndtr_f64)
    by_dtype(expm1, expm1_f32, math.expm1)
    by_dtype(log1p, log1p_f32, math.log1p)
