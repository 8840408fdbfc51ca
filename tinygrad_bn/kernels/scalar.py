"""Elementwise mathematics, once, for every compiler.

Each public function here becomes a kernel of the same name in ``cpu`` (and ``cuda``): its source is lifted, literals
``c`` becoming ``type(x)(c)`` so that float32 stays float32, and the functions of ``math`` becoming the backend's. The
gradient's factors stand beside the functions: y = f(x), gx = gy · f'(x).

NaN propagates everywhere: comparisons are written so that a NaN falls through to itself.
"""

from __future__ import annotations

from math import erf, exp, expm1, log, log1p, sqrt, tanh

# ------------------------------------------------------------------------------------------------------------ unary


def neg_(x: float) -> float:
    return -x


def abs_(x: float) -> float:
    return -x if x < 0 else x


def sign_(x: float) -> float:
    """-1, 0 or 1; NaN for NaN."""
    return 1.0 if x > 0 else (-1.0 if x < 0 else x)


def exp_(x: float) -> float:
    return exp(x)


def log_(x: float) -> float:
    return log(x)


def expm1_(x: float) -> float:
    return expm1(x)


def log1p_(x: float) -> float:
    return log1p(x)


def erf_(x: float) -> float:
    return erf(x)


def sqrt_(x: float) -> float:
    return sqrt(x)


def tanh_(x: float) -> float:
    return tanh(x)


def sigmoid_(x: float) -> float:
    """1 / (1 + e^-x): for large negative x, e^-x is infinite and the quotient 0."""
    return 1.0 / (1.0 + exp(-x))


def relu_(x: float) -> float:
    return 0.0 if x <= 0.0 else x


def logical_not_(x: float) -> float:
    return x == 0


# ----------------------------------------------------------------------------------------------------------- binary


def add_(x: float, y: float) -> float:
    return x + y


def sub_(x: float, y: float) -> float:
    return x - y


def mul_(x: float, y: float) -> float:
    return x * y


def div_(x: float, y: float) -> float:
    return x / y


def pow_(x: float, y: float) -> float:
    return x**y  # type: ignore[no-any-return]


def maximum_(x: float, y: float) -> float:
    return x if x > y or x != x else y


def minimum_(x: float, y: float) -> float:
    return x if x < y or x != x else y


def eq_(x: float, y: float) -> float:
    return x == y


def ne_(x: float, y: float) -> float:
    return x != y


def lt_(x: float, y: float) -> float:
    return x < y


def le_(x: float, y: float) -> float:
    return x <= y


def gt_(x: float, y: float) -> float:
    return x > y


def ge_(x: float, y: float) -> float:
    return x >= y


def logical_and_(x: float, y: float) -> float:
    return x != 0 and y != 0


def logical_or_(x: float, y: float) -> float:
    return x != 0 or y != 0


# -------------------------------------------------------------------------------------------------- gradients: gy · f'


def sigmoid_backward_(gy: float, y: float) -> float:
    """f' = y (1 - y)."""
    return gy * y * (1.0 - y)


def tanh_backward_(gy: float, y: float) -> float:
    """f' = 1 - y²."""
    return gy * (1.0 - y * y)


def relu_backward_(gy: float, x: float) -> float:
    """f' = 1 where x > 0, else 0; of a NaN, NaN."""
    return 0.0 if x <= 0.0 else (gy if x > 0.0 else x)


def sqrt_backward_(gy: float, y: float) -> float:
    """f' = 1 / (2 y)."""
    return gy / (2.0 * y)


def maximum_backward_(gy: float, x: float, y: float) -> float:
    """The share of x in the gradient of maximum(x, y): ties share it evenly."""
    return gy if x > y or x != x else (0.5 * gy if x == y else 0.0)


# ---------------------------------------------------------------------------------------------------------- ternary


def where_(condition: float, x: float, y: float) -> float:
    return x if condition else y


def clamp_(x: float, low: float, high: float) -> float:
    """min(max(x, low), high), NaN where one of them is; high where low > high."""
    raised = x if x >= low or x != x else low
    return raised if raised <= high or raised != raised else high


def within_(x: float, low: float, high: float) -> float:
    """Whether low <= x <= high."""
    return low <= x and x <= high
