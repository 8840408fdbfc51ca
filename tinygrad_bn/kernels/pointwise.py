"""Activations and the terms of losses, element by element, once, for every compiler.

Lifted as ``kernels/scalar.py`` is, whose rules hold here. Keyword-only parameters are settings: one number for all
elements. Below y = f(x) stands its gradient, gx = gy · f'(x).

NaN propagates everywhere: comparisons are written so that a NaN falls through to itself. No exponential overflows where
the result does not.
"""

from __future__ import annotations

from math import erfc, exp, expm1, log, log1p

# ------------------------------------------------------------------------------------------------------ activations


def ndtr(x: float) -> float:
    """Φ(x), the normal distribution function; lifted kernels take the backend's."""
    return 0.5 * erfc(x * -0.7071067811865476)


def leaky_relu_(x: float, *, slope: float) -> float:
    return x if x > 0.0 else x * slope


def leaky_relu_backward_(gy: float, x: float, *, slope: float) -> float:
    """f' = 1 where x > 0, else slope."""
    return gy if x > 0.0 else (gy * slope if x <= 0.0 else x)


def hardtanh_backward_(gy: float, x: float, *, low: float, high: float) -> float:
    """f' = 1 where low < x < high, else 0; y is ``clamp``."""
    return 0.0 if x <= low or x >= high else (gy if x == x else x)


def elu_(x: float, *, low: float, high: float, rate: float) -> float:
    """high x above 0, low (e^(rate x) - 1) below: elu, selu and celu."""
    return x * high if x > 0.0 else low * expm1(x * rate)


def elu_backward_(gy: float, x: float, *, low: float, high: float, rate: float) -> float:
    """f' = high above 0, low rate e^(rate x) below."""
    return gy * high if x > 0.0 else gy * (low * rate * exp(x * rate))


def gelu_(x: float) -> float:
    """x Φ(x)."""
    return x * ndtr(x)


def gelu_backward_(gy: float, x: float) -> float:
    """f' = Φ(x) + x φ(x), φ(x) = e^(-x²/2) / √(2π)."""
    return gy * (ndtr(x) + x * (0.3989422804014327 * exp(-0.5 * x * x)))


def gelu_tanh_(x: float) -> float:
    """x (1 + tanh u) / 2 = x / (1 + e^-2u), u = √(2/π) (x + 0.044715 x³)."""
    return x / (1.0 + exp(-1.5957691216057308 * x * (1.0 + 0.044715 * x * x)))


def gelu_tanh_backward_(gy: float, x: float) -> float:
    """f' = s + x s (1 - s) (2u)', s = 1 / (1 + e^-2u)."""
    s = 1.0 / (1.0 + exp(-1.5957691216057308 * x * (1.0 + 0.044715 * x * x)))
    return gy * (s + x * (s * (1.0 - s)) * (1.5957691216057308 * (1.0 + 0.134145 * x * x)))


def silu_(x: float) -> float:
    """x / (1 + e^-x)."""
    return x / (1.0 + exp(-x))


def silu_backward_(gy: float, x: float) -> float:
    """f' = s (1 + x (1 - s)), s = 1 / (1 + e^-x)."""
    s = 1.0 / (1.0 + exp(-x))
    return gy * (s * (1.0 + x * (1.0 - s)))


def mish_(x: float) -> float:
    """x tanh(ln(1 + e^x)) = x n / (n + 2), n = e^x (e^x + 2); in e^-x above 0."""
    e = exp(x if x < 0.0 else -x)
    n = e * (e + 2.0) if x < 0.0 else 1.0 + 2.0 * e
    return x * (n / (n + 2.0 if x < 0.0 else n + 2.0 * e * e))


def mish_backward_(gy: float, x: float) -> float:
    """f' = t + x (1 - t²) / (1 + e^-x), t = tanh(ln(1 + e^x)); 1 - t without cancellation."""
    e = exp(x if x < 0.0 else -x)
    n = e * (e + 2.0) if x < 0.0 else 1.0 + 2.0 * e
    rest = 2.0 if x < 0.0 else 2.0 * e * e
    t = n / (n + rest)
    s = (e if x < 0.0 else 1.0) / (1.0 + e)
    return gy * (t + x * (rest / (n + rest) * (1.0 + t) * s))


def softplus_(x: float, *, beta: float, threshold: float) -> float:
    """ln(1 + e^z) / beta = max(z, 0) / beta + ln(1 + e^-|z|) / beta, z = beta x; x where z > threshold."""
    z = x * beta
    above = x if z > 0.0 else 0.0
    return x if z > threshold else above + log1p(exp(-z if z > 0.0 else z)) / beta


def softplus_backward_(gy: float, x: float, *, beta: float, threshold: float) -> float:
    """f' = 1 / (1 + e^-z), 1 where z > threshold."""
    z = x * beta
    return gy if z > threshold else gy / (1.0 + exp(-z))


def logsigmoid_(x: float) -> float:
    """-ln(1 + e^-x) = min(x, 0) - ln(1 + e^-|x|)."""
    below = x if x < 0.0 else 0.0
    return below - log1p(exp(x if x < 0.0 else -x))


def logsigmoid_backward_(gy: float, x: float) -> float:
    """f' = 1 / (1 + e^x)."""
    return gy / (1.0 + exp(x))


# -------------------------------------------------------------------------------------------------- terms of losses


def huber_(x: float, *, delta: float, scale: float) -> float:
    """scale x²/2 where |x| < delta, scale delta (|x| - delta/2) elsewhere."""
    a = -x if x < 0.0 else x
    return scale * (0.5 * x * x if a < delta else delta * (a - 0.5 * delta))


def huber_backward_(gy: float, x: float, *, delta: float, scale: float) -> float:
    """f' = scale min(max(x, -delta), delta)."""
    return gy * (scale * (-delta if x <= -delta else (delta if x >= delta else x)))


def bce_(x: float, target: float) -> float:
    """-(target ln x + (1 - target) ln(1 - x)), the logarithms at least -100."""
    one = log(x)
    zero = log1p(-x)
    one = -100.0 if one < -100.0 else one
    zero = -100.0 if zero < -100.0 else zero
    return -(target * one + (1.0 - target) * zero)


def bce_backward_(gy: float, x: float, target: float) -> float:
    """f' = (x - target) / max(x (1 - x), 1e-12)."""
    size = x * (1.0 - x)
    return gy * ((x - target) / (1e-12 if size < 1e-12 else size))


def bce_logits_(x: float, target: float) -> float:
    """(1 - target) ln(1 + e^x) + target ln(1 + e^-x): every term positive for targets from 0 to 1."""
    rest = log1p(exp(x if x < 0.0 else -x))
    above = x if x > 0.0 else 0.0
    below = -x if x < 0.0 else 0.0
    return (1.0 - target) * (above + rest) + target * (below + rest)


def bce_logits_backward_(gy: float, x: float, target: float) -> float:
    """f' = (1 - target) s(x) - target s(-x), s(x) = 1 / (1 + e^-x): what is small for targets 0 and 1 is exact."""
    e = exp(x if x < 0.0 else -x)
    up = e if x < 0.0 else 1.0
    down = 1.0 if x < 0.0 else e
    return gy * (((1.0 - target) * up - target * down) / (1.0 + e))
