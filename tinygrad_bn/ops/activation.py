"""Activations in two pieces: leaky ReLU, hard tanh, PReLU and the ELUs. Smooth ones are in ``smooth``.

The derivative at a kink is PyTorch's: that of the left branch for ``leaky_relu`` and ``elu``, 0 at both ends of
``hardtanh``.
"""

from __future__ import annotations

from collections.abc import Callable

from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.ops._broadcast import run_elementwise
from tinygrad_bn.ops._common import Scalar, constant, is_floating, same_device
from tinygrad_bn.ops.arithmetic import mul
from tinygrad_bn.ops.comparison import clamp, eq, gt, where
from tinygrad_bn.ops.composite import through_composite
from tinygrad_bn.ops.movement import reshape

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def pointwise(name: str, operands: tuple[Tensor, ...], *settings: Scalar) -> Tensor:
    """Launch a kernel of ``kernels/pointwise.py``; the last operand tells dtype and device."""
    like = operands[-1]
    numbers = [constant(float(s), like.dtype, like.device) for s in settings]
    return run_elementwise(name, getattr(like.device.kernels, name), (*operands, *numbers), like.dtype)


def through_slope(node: Node, gy: Tensor, slope: Callable[[Tensor], Tensor]) -> Gradients:
    """The gradients of g · slope(x), for a node that has saved g and x."""
    return through_composite(lambda g, x: mul(g, slope(x)), node.unpack(), (gy,))


# ------------------------------------------------------------------------------------------------- piecewise linear


class LeakyReLU(Node):
    """y = x above 0, slope x below."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (leaky_relu_backward(gy, x, *self.constants),)


@operation(LeakyReLU)
def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return input where it is above 0, negative_slope · input elsewhere."""
    x = is_floating("leaky_relu", "input", input)
    return record(LeakyReLU, pointwise("leaky_relu", (x,), negative_slope), (x,), (x,), (negative_slope,))


class LeakyReLUBackward(Node):
    """g = gy above 0, slope gy below; constant in x."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return leaky_relu_backward(gy, x, *self.constants), None


@operation(LeakyReLUBackward)
def leaky_relu_backward(gy: Tensor, x: Tensor, slope: float) -> Tensor:
    """Return gy where x > 0, slope · gy elsewhere: the gradient of y = leaky_relu(x)."""
    return record(LeakyReLUBackward, pointwise("leaky_relu_backward", (gy, x), slope), (gy, x), (x,), (slope,))


class HardTanh(Node):
    """y = min(max(x, low), high)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (hardtanh_backward(gy, x, *self.constants),)


@operation(HardTanh)
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Return input limited to [min_val, max_val]: as ``clamp``, but with derivative 0 at both limits.

    Raises
    ------
    ArgumentError
        If min_val is above max_val.
    """
    x = is_floating("hardtanh", "input", input)
    if min_val > max_val:
        raise ArgumentError(wrong("hardtanh", "min_val", f"at most max_val = {max_val}", min_val))
    return record(HardTanh, pointwise("clamp", (x,), min_val, max_val), (x,), (x,), (min_val, max_val))


class HardTanhBackward(Node):
    """g = gy where low < x < high, else 0; constant in x."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return hardtanh_backward(gy, x, *self.constants), None


@operation(HardTanhBackward)
def hardtanh_backward(gy: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Return gy where low < x < high, else 0: the gradient of y = hardtanh(x)."""
    out = pointwise("hardtanh_backward", (gy, x), low, high)
    return record(HardTanhBackward, out, (gy, x), (x,), (low, high))


@mixed(autocast="low")
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Return input where it is above 0, weight · input elsewhere.

    Parameters
    ----------
    input : Tensor, shape (N, C, …) or any, floating point
    weight : Tensor, shape (C,), (1,) or ()
        The slopes, one a channel or one for all.

    Raises
    ------
    ShapeError
        If there are neither C slopes nor one.

    References
    ----------
    He et al. 2015 (arXiv:1502.01852).
    """
    x = is_floating("prelu", "input", input)
    w = is_floating("prelu", "weight", weight)
    same_device("prelu", x, "weight", w)
    channels = x.array.shape[1] if x.array.ndim > 1 else 1
    if w.array.ndim > 1 or w.array.size not in (1, channels):
        raise ShapeError(expected("prelu", "weight", f"shape (C,) = ({channels},) or (1,)", w.array.shape))
    slopes = reshape(w, (-1,) + (1,) * max(x.array.ndim - 2, 0)) if w.array.size > 1 else reshape(w, ())
    return where(gt(x, 0.0), x, mul(clamp(x, max=0.0), slopes))


# ------------------------------------------------------------------------------------------------------ exponential


class ELU(Node):
    """y = high x above 0, low (e^(rate x) - 1) below."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (elu_backward(gy, x, *self.constants),)


def _elu(op: str, input: Tensor, low: float, high: float, rate: float) -> Tensor:
    x = is_floating(op, "input", input)
    return record(ELU, pointwise("elu", (x,), low, high, rate), (x,), (x,), (low, high, rate))


@operation(ELU)
def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return input where it is above 0, alpha (e^input - 1) elsewhere.

    References
    ----------
    Clevert et al. 2016 (arXiv:1511.07289).
    """
    return _elu("elu", input, alpha, 1.0, 1.0)


@mixed()
def selu(input: Tensor) -> Tensor:
    """Return λ · elu(input, α), with λ and α such that mean 0 and variance 1 are kept from layer to layer.

    References
    ----------
    Klambauer et al. 2017 (arXiv:1706.02515).
    """
    return _elu("selu", input, SELU_ALPHA * SELU_SCALE, SELU_SCALE, 1.0)


@mixed()
def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return input where it is above 0, alpha (e^(input / alpha) - 1) elsewhere: smooth for every alpha.

    Raises
    ------
    ArgumentError
        If alpha is 0.

    References
    ----------
    Barron 2017 (arXiv:1704.07483).
    """
    if alpha == 0:
        raise ArgumentError(wrong("celu", "alpha", "other than 0", alpha))
    return _elu("celu", input, alpha, 1.0, 1.0 / alpha)


class ELUBackward(Node):
    """g = gy high above 0, gy low rate e^(rate x) below, whose derivative in x has the same form; it is 0 at 0."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        g, x = self.unpack()
        low, _, rate = self.constants
        product = where(eq(x, 0.0), 0.0, mul(gy, g))
        return elu_backward(gy, x, *self.constants), elu_backward(product, x, low * rate, 0.0, rate)


@operation(ELUBackward)
def elu_backward(gy: Tensor, x: Tensor, low: float, high: float, rate: float) -> Tensor:
    """Return the gradient of elu, selu and celu."""
    out = pointwise("elu_backward", (gy, x), low, high, rate)
    return record(ELUBackward, out, (gy, x), (gy, x), (low, high, rate))
