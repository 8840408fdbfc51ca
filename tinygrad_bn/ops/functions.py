"""Functions of one tensor, and powers. The derivative of each is stated in its rule's docstring."""

from __future__ import annotations

import math

from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops._broadcast import run_binary, run_unary
from tinygrad_bn.ops._common import is_tensor
from tinygrad_bn.ops._operands import Operand, fit, floating, pair
from tinygrad_bn.ops.arithmetic import add, div, mul, neg, sub
from tinygrad_bn.ops.comparison import eq, ge, logical_and, where


class Abs(Node):
    """y = |x|; the derivative at 0 is 0."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (mul(gy, sign(x)),)


@operation(Abs)
def abs(input: Tensor) -> Tensor:
    """Return |input|."""
    x = is_tensor("abs", "input", input)
    return record(Abs, run_unary("abs", x.device.kernels.abs, x, x.dtype), (x,), (x,))


class Sign(Node):
    """y = sign(x); the derivative is 0."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (mul(gy, 0.0),)


@operation(Sign)
def sign(input: Tensor) -> Tensor:
    """Return -1, 0 or 1 by the sign of each element."""
    x = is_tensor("sign", "input", input)
    return record(Sign, run_unary("sign", x.device.kernels.sign, x, x.dtype), (x,))


class Exp(Node):
    """y = e^x, y' = y."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (mul(gy, self.unpack_output()),)


@operation(Exp)
def exp(input: Tensor) -> Tensor:
    """Return e^input."""
    x = floating("exp", input)
    return record(Exp, run_unary("exp", x.device.kernels.exp, x, x.dtype), (x,), save_output=True)


class Log(Node):
    """y = ln x, y' = 1 / x."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (div(gy, x),)


@operation(Log)
def log(input: Tensor) -> Tensor:
    """Return the natural logarithm: -inf of 0, NaN of negative numbers."""
    x = floating("log", input)
    return record(Log, run_unary("log", x.device.kernels.log, x, x.dtype), (x,), (x,))


class Expm1(Node):
    """y = e^x - 1, y' = y + 1."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (mul(gy, add(self.unpack_output(), 1.0)),)


@operation(Expm1)
def expm1(input: Tensor) -> Tensor:
    """Return e^input - 1, without the cancellation near 0."""
    x = floating("expm1", input)
    return record(Expm1, run_unary("expm1", x.device.kernels.expm1, x, x.dtype), (x,), save_output=True)


class Log1p(Node):
    """y = ln(1 + x), y' = 1 / (1 + x)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (div(gy, add(x, 1.0)),)


@operation(Log1p)
def log1p(input: Tensor) -> Tensor:
    """Return ln(1 + input), without the rounding of 1 + input; -inf of -1, NaN below."""
    x = floating("log1p", input)
    return record(Log1p, run_unary("log1p", x.device.kernels.log1p, x, x.dtype), (x,), (x,))


class Erf(Node):
    """y = 2/√π ∫ e^(-t²) dt from 0 to x, y' = 2/√π e^(-x²)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (mul(gy, mul(exp(neg(mul(x, x))), 2 / math.sqrt(math.pi))),)


@operation(Erf)
def erf(input: Tensor) -> Tensor:
    """Return the error function."""
    x = floating("erf", input)
    return record(Erf, run_unary("erf", x.device.kernels.erf, x, x.dtype), (x,), (x,))


class Sqrt(Node):
    """y = √x, y' = 1 / (2 y)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (sqrt_backward(gy, self.unpack_output()),)


@operation(Sqrt)
def sqrt(input: Tensor) -> Tensor:
    """Return the square root, NaN of negative numbers; its derivative at 0 is infinite."""
    x = floating("sqrt", input)
    return record(Sqrt, run_unary("sqrt", x.device.kernels.sqrt, x, x.dtype), (x,), save_output=True)


class SqrtBackward(Node):
    """g = gy / (2 y)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        g, y = self.unpack()
        return sqrt_backward(gy, y), neg(div(sqrt_backward(mul(gy, g), y), y))


@operation(SqrtBackward)
def sqrt_backward(gy: Tensor, y: Tensor) -> Tensor:
    """Return gy / (2 y), the gradient of y = √x."""
    out = run_binary("sqrt_backward", y.device.kernels.sqrt_backward, gy, y, y.dtype)
    return record(SqrtBackward, out, (gy, y), (gy, y))


class Tanh(Node):
    """y = tanh x, y' = 1 - y²."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (tanh_backward(gy, self.unpack_output()),)


@operation(Tanh)
def tanh(input: Tensor) -> Tensor:
    """Return the hyperbolic tangent."""
    x = floating("tanh", input)
    return record(Tanh, run_unary("tanh", x.device.kernels.tanh, x, x.dtype), (x,), save_output=True)


class TanhBackward(Node):
    """g = gy (1 - y²)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        g, y = self.unpack()
        return tanh_backward(gy, y), mul(mul(mul(gy, g), y), -2.0)


@operation(TanhBackward)
def tanh_backward(gy: Tensor, y: Tensor) -> Tensor:
    """Return gy (1 - y²), the gradient of y = tanh x."""
    out = run_binary("tanh_backward", y.device.kernels.tanh_backward, gy, y, y.dtype)
    return record(TanhBackward, out, (gy, y), (gy, y))


class Sigmoid(Node):
    """y = 1 / (1 + e^-x), y' = y (1 - y)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (sigmoid_backward(gy, self.unpack_output()),)


@operation(Sigmoid)
def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + e^-input)."""
    x = floating("sigmoid", input)
    return record(Sigmoid, run_unary("sigmoid", x.device.kernels.sigmoid, x, x.dtype), (x,), save_output=True)


class SigmoidBackward(Node):
    """g = gy y (1 - y)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        g, y = self.unpack()
        return sigmoid_backward(gy, y), mul(mul(gy, g), sub(1.0, mul(y, 2.0)))


@operation(SigmoidBackward)
def sigmoid_backward(gy: Tensor, y: Tensor) -> Tensor:
    """Return gy y (1 - y), the gradient of y = sigmoid(x)."""
    out = run_binary("sigmoid_backward", y.device.kernels.sigmoid_backward, gy, y, y.dtype)
    return record(SigmoidBackward, out, (gy, y), (gy, y))


class ReLU(Node):
    """y = max(x, 0); the derivative at 0 is 0."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (relu_backward(gy, self.unpack_output()),)


@operation(ReLU)
def relu(input: Tensor) -> Tensor:
    """Return max(input, 0); NaN stays NaN."""
    x = is_tensor("relu", "input", input)
    return record(ReLU, run_unary("relu", x.device.kernels.relu, x, x.dtype), (x,), save_output=True)


class ReLUBackward(Node):
    """g = gy where y > 0, else 0; constant in y."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (y,) = self.unpack()
        return relu_backward(gy, y), None


@operation(ReLUBackward)
def relu_backward(gy: Tensor, y: Tensor) -> Tensor:
    """Return gy where y > 0, else 0: the gradient of y = relu(x)."""
    out = run_binary("relu_backward", y.device.kernels.relu_backward, gy, y, y.dtype)
    return record(ReLUBackward, out, (gy, y), (y,))


class Pow(Node):
    """y = a^b: ∂y/∂a = b a^(b-1), 0 where b = 0; ∂y/∂b = y ln a, 0 where a = 0 and b >= 0."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        a, b = self.unpack()
        ga = gb = None
        if self.inputs[0] is not None:
            slope = mul(b, pow(a, sub(b, 1.0)))
            ga = fit(mul(gy, where(eq(b, 0.0), 0.0, slope)), a.array.shape)
        if self.inputs[1] is not None:
            slope = mul(self.unpack_output(), log(a))
            gb = fit(mul(gy, where(logical_and(eq(a, 0.0), ge(b, 0.0)), 0.0, slope)), b.array.shape)
        return ga, gb


@operation(Pow)
def pow(input: Operand, exponent: Operand) -> Tensor:
    """Return input ** exponent.

    Raises
    ------
    ArgumentError
        For an integer tensor and a negative integer exponent.
    """
    if isinstance(input, Tensor) and not isinstance(exponent, Tensor):
        if exponent == 2:
            return mul(input, input)
        if isinstance(exponent, int) and exponent < 0 and not input.dtype.is_floating_point:
            raise ArgumentError(wrong("pow", "exponent", "at least 0 for an integer tensor", exponent))
    x, y = pair("pow", input, exponent)
    out = run_binary("pow", x.device.kernels.pow, x, y, x.dtype)
    return record(Pow, out, (x, y), (x, y), save_output=True)


def square(input: Tensor) -> Tensor:
    """Return input²."""
    x = is_tensor("square", "input", input)
    return mul(x, x)
