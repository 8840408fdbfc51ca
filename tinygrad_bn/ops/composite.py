"""Derivatives by differentiating a composite: for gradients whose own derivative no fused kernel is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinygrad_bn.core.backward import grad
from tinygrad_bn.core.dtype import float32
from tinygrad_bn.core.tape import Gradients, Node, enable_grad, mode
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops._operands import convert


class Gate(Node):
    """The identity, behind which an input is one of its own: its gradient leaves out what comes by another input that
    was computed from the same."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (gy,)


def through_composite(
    function: Callable[..., Tensor | Sequence[Tensor]], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``function(*inputs)`` with respect to its inputs, by recording and differentiating it.

    Where the running backward pass is recorded (``create_graph``), so are these, through the inputs' own nodes: the
    derivatives of any order follow. Inputs of low precision are widened for the function, as the fused kernel does.
    """
    create = mode.grad
    local = [t.alias() for t in inputs]
    for t, behind in zip(inputs, local, strict=True):
        if create and t.node is not None:
            behind.node = Gate((t.node,), ())
        else:
            behind.requires_grad = True
    with enable_grad():
        out = function(*[convert(t, float32) if t.dtype.low else t for t in local])
    outs = (out,) if isinstance(out, Tensor) else tuple(out)
    pairs = zip(outs, cotangents, strict=True)
    wanted = [(o, convert(g, o.dtype)) for o, g in pairs if g is not None and o.node is not None]
    if not wanted:
        return (None,) * len(inputs)
    return grad([o for o, _ in wanted], local, [g for _, g in wanted], create_graph=create, allow_unused=True)
