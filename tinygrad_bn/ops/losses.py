"""The terms of elementwise losses, one an element: ``functional`` checks the shapes, weighs and reduces them."""

from __future__ import annotations

from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops._common import is_floating
from tinygrad_bn.ops.activation import hardtanh_backward, pointwise
from tinygrad_bn.ops.arithmetic import div, mul, neg, sub
from tinygrad_bn.ops.comparison import clamp
from tinygrad_bn.ops.composite import through_composite
from tinygrad_bn.ops.functions import log, log1p, sigmoid


class Huber(Node):
    """y = scale x²/2 where |x| < delta, scale delta (|x| - delta/2) elsewhere."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        return (huber_backward(gy, x, *self.constants),)


@operation(Huber)
def huber(input: Tensor, delta: float = 1.0, scale: float = 1.0) -> Tensor:
    """Return the Huber function of differences, times a scale.

    References
    ----------
    Huber 1964 (Annals of Mathematical Statistics 35, 73).
    """
    x = is_floating("huber", "input", input)
    return record(Huber, pointwise("huber", (x,), delta, scale), (x,), (x,), (delta, scale))


class HuberBackward(Node):
    """g = gy scale min(max(x, -delta), delta)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        g, x = self.unpack()
        delta, scale = self.constants
        return huber_backward(gy, x, delta, scale), hardtanh_backward(mul(mul(gy, g), scale), x, -delta, delta)


@operation(HuberBackward)
def huber_backward(gy: Tensor, x: Tensor, delta: float, scale: float) -> Tensor:
    """Return the gradient of y = huber(x)."""
    return record(HuberBackward, pointwise("huber_backward", (gy, x), delta, scale), (gy, x), (gy, x), (delta, scale))


class BCE(Node):
    """y = -(t ln x + (1 - t) ln(1 - x)); ∂y/∂t = ln(1 - x) - ln x."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, target = self.unpack()
        gx = None if self.inputs[0] is None else bce_backward(gy, x, target)
        if self.inputs[1] is None:
            return gx, None
        return gx, mul(gy, sub(clamp(log1p(neg(x)), min=-100.0), clamp(log(x), min=-100.0)))


@operation(BCE)
def bce(input: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy of probabilities, logarithms not below -100; both of one shape and dtype."""
    x = is_floating("bce", "input", input)
    return record(BCE, pointwise("bce", (x, target)), (x, target), (x, target))


class BCEBackward(Node):
    """The derivative of gy (x - t) / max(x (1 - x), 1e-12), through its composite."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        def composite(g: Tensor, x: Tensor, target: Tensor) -> Tensor:
            return mul(g, div(sub(x, target), clamp(mul(x, sub(1.0, x)), min=1e-12)))

        return through_composite(composite, self.unpack(), (gy,))


@operation(BCEBackward)
def bce_backward(gy: Tensor, x: Tensor, target: Tensor) -> Tensor:
    """Return gy (x - target) / max(x (1 - x), 1e-12): the gradient of y = bce(x, target) in x."""
    return record(BCEBackward, pointwise("bce_backward", (gy, x, target)), (gy, x, target), (gy, x, target))


class BCELogits(Node):
    """y = (1 - t) ln(1 + e^x) + t ln(1 + e^-x); ∂y/∂t = -x."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, target = self.unpack()
        gx = None if self.inputs[0] is None else bce_logits_backward(gy, x, target)
        return gx, None if self.inputs[1] is None else neg(mul(gy, x))


@operation(BCELogits)
def bce_logits(input: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy of sigmoid(input), without its underflow; both of one shape and dtype."""
    x = is_floating("bce_logits", "input", input)
    return record(BCELogits, pointwise("bce_logits", (x, target)), (x, target), (x, target))


class BCELogitsBackward(Node):
    """The derivative of gy (sigmoid(x) - t), through its composite."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        def composite(g: Tensor, x: Tensor, target: Tensor) -> Tensor:
            return mul(g, sub(sigmoid(x), target))

        return through_composite(composite, self.unpack(), (gy,))


@operation(BCELogitsBackward)
def bce_logits_backward(gy: Tensor, x: Tensor, target: Tensor) -> Tensor:
    """Return gy (sigmoid(x) - target): the gradient of y = bce_logits(x, target) in x."""
    out = pointwise("bce_logits_backward", (gy, x, target))
    return record(BCELogitsBackward, out, (gy, x, target), (gy, x, target))
