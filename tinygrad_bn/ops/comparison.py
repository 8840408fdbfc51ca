"""Comparisons, which have no derivative, and the choices made by them."""

from __future__ import annotations

import numpy as np

from tinygrad_bn.core.dtype import DType, as_dtype, bool_
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.ops._broadcast import run_binary, run_elementwise, run_unary
from tinygrad_bn.ops._common import Scalar, constant, is_tensor, same_device
from tinygrad_bn.ops._operands import Operand, fit, floating, pair


def _compare(op: str, input: Operand, other: Operand) -> Tensor:
    x, y = pair(op, input, other)
    return run_binary(op, getattr(x.device.kernels, op), x, y, bool_)


@operation()
def eq(input: Operand, other: Operand) -> Tensor:
    """Return where input == other, as a boolean tensor."""
    return _compare("eq", input, other)


@operation()
def ne(input: Operand, other: Operand) -> Tensor:
    """Return where input != other, as a boolean tensor."""
    return _compare("ne", input, other)


@operation()
def lt(input: Operand, other: Operand) -> Tensor:
    """Return where input < other, as a boolean tensor."""
    return _compare("lt", input, other)


@operation()
def le(input: Operand, other: Operand) -> Tensor:
    """Return where input <= other, as a boolean tensor."""
    return _compare("le", input, other)


@operation()
def gt(input: Operand, other: Operand) -> Tensor:
    """Return where input > other, as a boolean tensor."""
    return _compare("gt", input, other)


@operation()
def ge(input: Operand, other: Operand) -> Tensor:
    """Return where input >= other, as a boolean tensor."""
    return _compare("ge", input, other)


@operation()
def logical_and(input: Operand, other: Operand) -> Tensor:
    """Return where both are not 0, as a boolean tensor."""
    return _compare("logical_and", input, other)


@operation()
def logical_or(input: Operand, other: Operand) -> Tensor:
    """Return where one is not 0, as a boolean tensor."""
    return _compare("logical_or", input, other)


@operation()
def logical_not(input: Tensor) -> Tensor:
    """Return where the elements are 0, as a boolean tensor."""
    x = is_tensor("logical_not", "input", input)
    return run_unary("logical_not", x.device.kernels.logical_not, x, bool_)


class Where(Node):
    """y = a where the condition holds, else b."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (condition,) = self.unpack()
        a, b = self.constants
        ga = None if self.inputs[1] is None else fit(where(condition, gy, 0.0), a)
        return None, ga, None if self.inputs[2] is None else fit(where(condition, 0.0, gy), b)


@operation(Where)
def where(condition: Tensor, input: Operand, other: Operand) -> Tensor:
    """Return input where the boolean condition holds, other elsewhere; shapes broadcast."""
    c = is_tensor("where", "condition", condition)
    if c.dtype is not bool_:
        c = ne(c, 0)
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        input = constant(input, as_dtype(type(input)), c.device)
    x, y = pair("where", input, other)
    same_device("where", c, "input", x)
    return record(
        Where,
        run_elementwise("where", c.device.kernels.where, (c, x, y), x.dtype),
        (c, x, y),
        (c,),
        (x.array.shape, y.array.shape),
    )


class Clamp(Node):
    """y = min(max(x, low), high): the gradient passes where low <= x <= high."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, low, high = self.unpack()
        inside = run_elementwise("clamp", x.device.kernels.within, (x, low, high), bool_)
        return (where(inside, gy, 0.0),)


@operation(Clamp)
def clamp(input: Tensor, min: Scalar | None = None, max: Scalar | None = None) -> Tensor:
    """Return the elements limited to [min, max]; max where min > max, NaN stays NaN.

    Raises
    ------
    ArgumentError
        If neither limit is given.
    """
    x = is_tensor("clamp", "input", input)
    if min is None and max is None:
        raise ArgumentError("clamp: at least one of 'min' and 'max' must be given. Got None for both.")
    if isinstance(min, float) or isinstance(max, float):
        x = floating("clamp", x)
    low = constant(_lowest(x.dtype) if min is None else min, x.dtype, x.device)
    high = constant(_highest(x.dtype) if max is None else max, x.dtype, x.device)
    out = run_elementwise("clamp", x.device.kernels.clamp, (x, low, high), x.dtype)
    return record(Clamp, out, (x,), (x, low, high))


def _lowest(dtype: DType) -> Scalar:
    return float("-inf") if dtype.is_floating_point else int(np.iinfo(dtype.storage).min)


def _highest(dtype: DType) -> Scalar:
    return float("inf") if dtype.is_floating_point else int(np.iinfo(dtype.storage).max)
