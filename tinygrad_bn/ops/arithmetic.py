"""Arithmetic of two tensors: each operation a rule (a Node that states its derivative) and the function that records
it.

Every function broadcasts as NumPy and PyTorch do, promotes dtypes as PyTorch does, and takes tensors of any strides.
"""

from __future__ import annotations

from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops._broadcast import run_binary, run_elementwise, run_unary
from tinygrad_bn.ops._common import Scalar, is_tensor
from tinygrad_bn.ops._operands import NOTHING, Operand, fit, floating, pair


class Neg(Node):
    """y = -x."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (neg(gy),)


@operation(Neg)
def neg(input: Tensor) -> Tensor:
    """Return -input."""
    x = is_tensor("neg", "input", input)
    return record(Neg, run_unary("neg", x.device.kernels.neg, x, x.dtype), (x,))


class Add(Node):
    """y = a + b."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        a, b = self.constants
        return fit(gy, a), fit(gy, b)


@operation(Add)
def add(input: Operand, other: Operand, *, alpha: Scalar = 1) -> Tensor:
    """Return input + alpha · other."""
    if alpha != 1:
        other = mul(other, alpha)
    x, y = pair("add", input, other)
    out = run_binary("add", x.device.kernels.add, x, y, x.dtype)
    if x.node is None and y.node is None:
        return out
    return record(Add, out, (x, y), constants=(x.array.shape, y.array.shape))


class Sub(Node):
    """y = a - b."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        a, b = self.constants
        return fit(gy, a), None if self.inputs[1] is None else fit(neg(gy), b)


@operation(Sub)
def sub(input: Operand, other: Operand, *, alpha: Scalar = 1) -> Tensor:
    """Return input - alpha · other."""
    if alpha != 1:
        other = mul(other, alpha)
    x, y = pair("sub", input, other)
    out = run_binary("sub", x.device.kernels.sub, x, y, x.dtype)
    if x.node is None and y.node is None:
        return out
    return record(Sub, out, (x, y), constants=(x.array.shape, y.array.shape))


class Mul(Node):
    """y = a b. Only what a wanted gradient needs is saved."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        a, b = self.unpack()
        shape_a, shape_b = self.constants
        ga = None if self.inputs[0] is None else fit(mul(gy, b), shape_a)
        return ga, None if self.inputs[1] is None else fit(mul(gy, a), shape_b)


@operation(Mul)
def mul(input: Operand, other: Operand) -> Tensor:
    """Return input · other."""
    x, y = pair("mul", input, other)
    out = run_binary("mul", x.device.kernels.mul, x, y, x.dtype)
    if x.node is None and y.node is None:
        return out
    saved = (x if y.node is not None else NOTHING, y if x.node is not None else NOTHING)
    return record(Mul, out, (x, y), saved, (x.array.shape, y.array.shape))


class Div(Node):
    """y = a / b: ∂y/∂a = 1 / b, ∂y/∂b = -y / b."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        a, b = self.unpack()
        ga = div(gy, b)
        gb = None if self.inputs[1] is None else fit(neg(mul(ga, div(a, b))), b.array.shape)
        return fit(ga, self.constants[0]), gb


@operation(Div)
def div(input: Operand, other: Operand) -> Tensor:
    """Return input / other; integers are converted to the default floating-point type."""
    x, y = pair("div", input, other)
    x, y = floating("div", x), floating("div", y)
    out = run_binary("div", x.device.kernels.div, x, y, x.dtype)
    return record(Div, out, (x, y), (x if y.node is not None else NOTHING, y), (x.array.shape,))


class Maximum(Node):
    """y = max(a, b); ties share the gradient evenly."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        a, b = self.unpack()
        ga = None if self.inputs[0] is None else fit(maximum_backward(gy, a, b), a.array.shape)
        return ga, None if self.inputs[1] is None else fit(maximum_backward(gy, b, a), b.array.shape)


@operation(Maximum)
def maximum(input: Tensor, other: Tensor) -> Tensor:
    """Return the larger of two elements, NaN if one is; equal ones share the gradient evenly."""
    x, y = pair("maximum", input, other)
    out = run_binary("maximum", x.device.kernels.maximum, x, y, x.dtype)
    return record(Maximum, out, (x, y), (x, y))


class MaximumBackward(Node):
    """g = gy where a > b, gy / 2 where equal; constant in a and b."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        g_shape, a, b = self.constants[0], *self.unpack()
        return fit(maximum_backward(gy, a, b), g_shape), None, None


@operation(MaximumBackward)
def maximum_backward(gy: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the share of a in the gradient of maximum(a, b)."""
    out = run_elementwise("maximum_backward", a.device.kernels.maximum_backward, (gy, a, b), gy.dtype)
    return record(MaximumBackward, out, (gy, a, b), (a, b), (gy.array.shape,))


class Minimum(Node):
    """y = min(a, b); ties share the gradient evenly."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        a, b = self.unpack()
        na, nb = neg(a), neg(b)
        ga = None if self.inputs[0] is None else fit(maximum_backward(gy, na, nb), a.array.shape)
        return ga, None if self.inputs[1] is None else fit(maximum_backward(gy, nb, na), b.array.shape)


@operation(Minimum)
def minimum(input: Tensor, other: Tensor) -> Tensor:
    """Return the smaller of two elements, NaN if one is; equal ones share the gradient evenly."""
    x, y = pair("minimum", input, other)
    out = run_binary("minimum", x.device.kernels.minimum, x, y, x.dtype)
    return record(Minimum, out, (x, y), (x, y))
