"""Questions about tensors: whether elements are finite, whether two tensors are equal or close."""

from __future__ import annotations

from typing import TypeGuard

from tinygrad_bn.core.dtype import bool_
from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops import _common, arithmetic, comparison, creation, functions, sums
from tinygrad_bn.ops._operands import Operand


def is_tensor(obj: object) -> TypeGuard[Tensor]:
    """Return whether an object is a Tensor."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Return whether the tensor's dtype is a floating-point type."""
    return _common.is_tensor("is_floating_point", "input", input).dtype.is_floating_point


def numel(input: Tensor) -> int:
    """Return the number of elements."""
    return _common.is_tensor("numel", "input", input).array.size


def isnan(input: Tensor) -> Tensor:
    """Return where elements are NaN, as a boolean tensor."""
    x = _common.is_tensor("isnan", "input", input)
    return comparison.ne(x, x)


def isinf(input: Tensor) -> Tensor:
    """Return where elements are infinite, as a boolean tensor."""
    x = _common.is_tensor("isinf", "input", input)
    if not x.dtype.is_floating_point:
        return creation.zeros_like(x, dtype=bool_)
    return comparison.eq(functions.abs(x.alias()), float("inf"))


def isfinite(input: Tensor) -> Tensor:
    """Return where elements are neither infinite nor NaN, as a boolean tensor."""
    x = _common.is_tensor("isfinite", "input", input)
    if not x.dtype.is_floating_point:
        return creation.ones_like(x, dtype=bool_)
    return comparison.lt(functions.abs(x.alias()), float("inf"))


def all(input: Tensor) -> Tensor:
    """Return whether every element is not 0."""
    return comparison.eq(sums.sum(comparison.eq(input, 0)), 0)


def any(input: Tensor) -> Tensor:
    """Return whether some element is not 0."""
    return comparison.ne(sums.sum(comparison.ne(input, 0)), 0)


@mixed()
def isclose(input: Tensor, other: Operand, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Return where |input - other| <= atol + rtol |other|, as a boolean tensor; equal infinities are close.

    Parameters
    ----------
    input, other : Tensor
        Shapes broadcast.
    rtol, atol : float
    equal_nan : bool
        Whether NaN is close to NaN.
    """
    x = _common.is_tensor("isclose", "input", input).alias()
    y = _common.operand("isclose", "other", other, x)
    y = y.alias() if y.node is not None else y
    distance = functions.abs(arithmetic.sub(x, y))
    allowed = arithmetic.add(arithmetic.mul(functions.abs(y), rtol), atol)
    near = comparison.logical_and(isfinite(distance), comparison.le(distance, allowed))
    close = comparison.logical_or(comparison.eq(x, y), near)
    return comparison.logical_or(close, comparison.logical_and(isnan(x), isnan(y))) if equal_nan else close


def allclose(input: Tensor, other: Operand, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Return whether all elements are close; see ``isclose``."""
    reads_values("allclose")
    return _common.number(all(isclose(input, other, rtol, atol, equal_nan))) is True


def equal(input: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same shape and equal elements; NaN equals nothing."""
    x, y = _common.is_tensor("equal", "input", input), _common.is_tensor("equal", "other", other)
    reads_values("equal")
    return x.array.shape == y.array.shape and _common.number(all(comparison.eq(x, y))) is True
