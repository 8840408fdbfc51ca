"""Smooth activations: GELU, SiLU, Mish, softplus and the logarithm of the sigmoid."""

from __future__ import annotations

import math

from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops._common import is_floating
from tinygrad_bn.ops.activation import pointwise, through_slope
from tinygrad_bn.ops.arithmetic import add, mul, neg, sub
from tinygrad_bn.ops.comparison import gt, where
from tinygrad_bn.ops.functions import erf, exp, sigmoid, tanh

KAPPA = math.sqrt(2 / math.pi)
CUBIC = 0.044715
GELUS = {"none": "gelu", "tanh": "gelu_tanh"}


class GELU(Node):
    """y = x Φ(x), or its approximation by tanh."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (gelu_backward(gy, x, *self.constants),)


@operation(GELU)
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return input · Φ(input), Φ the normal distribution function.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    approximate : {"none", "tanh"}
        "tanh": input (1 + tanh(√(2/π) (input + 0.044715 input³))) / 2.

    Raises
    ------
    ArgumentError
        If ``approximate`` is neither.

    References
    ----------
    Hendrycks & Gimpel 2016 (arXiv:1606.08415).
    """
    x = is_floating("gelu", "input", input)
    if approximate not in GELUS:
        raise ArgumentError(wrong("gelu", "approximate", "'none' or 'tanh'", repr(approximate)))
    return record(GELU, pointwise(GELUS[approximate], (x,)), (x,), (x,), (approximate,))


class GELUBackward(Node):
    """g = gy (Φ(x) + x φ(x)), or that of the approximation."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return through_slope(self, gy, _gelu_slope if self.constants[0] == "none" else _gelu_tanh_slope)


def _gelu_slope(x: Tensor) -> Tensor:
    density = mul(exp(mul(mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return add(mul(add(erf(mul(x, math.sqrt(0.5))), 1.0), 0.5), mul(x, density))


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    square = mul(x, x)
    t = tanh(mul(mul(x, add(mul(square, CUBIC), 1.0)), KAPPA))
    inner = mul(add(mul(square, 3 * CUBIC), 1.0), KAPPA)
    return mul(add(add(t, 1.0), mul(mul(x, sub(1.0, mul(t, t))), inner)), 0.5)


@operation(GELUBackward)
def gelu_backward(gy: Tensor, x: Tensor, approximate: str) -> Tensor:
    """Return the gradient of y = gelu(x)."""
    out = pointwise(f"{GELUS[approximate]}_backward", (gy, x))
    return record(GELUBackward, out, (gy, x), (gy, x), (approximate,))


class SiLU(Node):
    """y = x sigmoid(x)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (silu_backward(gy, x),)


@operation(SiLU)
def silu(input: Tensor) -> Tensor:
    """Return input · sigmoid(input), also known as swish.

    References
    ----------
    Elfwing et al. 2018 (arXiv:1702.03118); Ramachandran et al. 2017 (arXiv:1710.05941).
    """
    x = is_floating("silu", "input", input)
    return record(SiLU, pointwise("silu", (x,)), (x,), (x,))


class SiLUBackward(Node):
    """g = gy s (1 + x (1 - s)), s = sigmoid(x)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return through_slope(self, gy, _silu_slope)


def _silu_slope(x: Tensor) -> Tensor:
    s = sigmoid(x)
    return mul(s, add(mul(x, sub(1.0, s)), 1.0))


@operation(SiLUBackward)
def silu_backward(gy: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of y = silu(x)."""
    return record(SiLUBackward, pointwise("silu_backward", (gy, x)), (gy, x), (gy, x))


class Mish(Node):
    """y = x tanh(softplus(x))."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (mish_backward(gy, x),)


@operation(Mish)
def mish(input: Tensor) -> Tensor:
    """Return input · tanh(softplus(input)).

    References
    ----------
    Misra 2020 (arXiv:1908.08681).
    """
    x = is_floating("mish", "input", input)
    return record(Mish, pointwise("mish", (x,)), (x,), (x,))


class MishBackward(Node):
    """g = gy (t + x (1 - t²) sigmoid(x)), t = tanh(softplus(x))."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return through_slope(self, gy, _mish_slope)


def _mish_slope(x: Tensor) -> Tensor:
    t = tanh(softplus(x))
    return add(t, mul(mul(x, sub(1.0, mul(t, t))), sigmoid(x)))


@operation(MishBackward)
def mish_backward(gy: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of y = mish(x)."""
    return record(MishBackward, pointwise("mish_backward", (gy, x)), (gy, x), (gy, x))


class Softplus(Node):
    """y = ln(1 + e^(beta x)) / beta, x where beta x is above the threshold."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (softplus_backward(gy, x, *self.constants),)


@operation(Softplus)
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return ln(1 + e^(beta · input)) / beta.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    beta : float
        How sharply it bends at 0.
    threshold : float
        Where beta · input is above it the input itself is returned. No exponential overflows, whatever it is.

    Raises
    ------
    ArgumentError
        If beta is 0.
    """
    x = is_floating("softplus", "input", input)
    if beta == 0:
        raise ArgumentError(wrong("softplus", "beta", "other than 0", beta))
    return record(Softplus, pointwise("softplus", (x,), beta, threshold), (x,), (x,), (beta, threshold))


class SoftplusBackward(Node):
    """g = gy sigmoid(beta x), gy above the threshold."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        beta, threshold = self.constants

        def slope(x: Tensor) -> Tensor:
            z = mul(x, beta)
            return where(gt(z, threshold), 1.0, sigmoid(z))

        return through_slope(self, gy, slope)


@operation(SoftplusBackward)
def softplus_backward(gy: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
    """Return the gradient of y = softplus(x)."""
    out = pointwise("softplus_backward", (gy, x), beta, threshold)
    return record(SoftplusBackward, out, (gy, x), (gy, x), (beta, threshold))


class LogSigmoid(Node):
    """y = -ln(1 + e^-x)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (logsigmoid_backward(gy, x),)


@operation(LogSigmoid)
def logsigmoid(input: Tensor) -> Tensor:
    """Return ln sigmoid(input), without the sigmoid's underflow."""
    x = is_floating("logsigmoid", "input", input)
    return record(LogSigmoid, pointwise("logsigmoid", (x,)), (x,), (x,))


class LogSigmoidBackward(Node):
    """g = gy sigmoid(-x)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return through_slope(self, gy, lambda x: sigmoid(neg(x)))


@operation(LogSigmoidBackward)
def logsigmoid_backward(gy: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of y = logsigmoid(x)."""
    return record(LogSigmoidBackward, pointwise("logsigmoid_backward", (gy, x)), (gy, x), (gy, x))
