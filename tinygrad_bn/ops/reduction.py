"""Variance, extremes and their positions, with PyTorch's names and results."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ShapeError, expected
from tinygrad_bn.ops import arithmetic, comparison, functions, indexing, movement
from tinygrad_bn.ops._common import axes, axis, cast, is_floating, is_tensor, new
from tinygrad_bn.ops._layout import Shape, product, split_at, with_ones
from tinygrad_bn.ops.sums import Dims, mean, scaled_sum, sum


@mixed()
def var(
    input: Tensor,
    dim: Dims = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> Tensor:
    """Return the variance over axes (all by default), in two passes: Σ (x - mean)² / (n - correction).

    Parameters
    ----------
    unbiased : bool, optional
        True for correction 1, False for 0.
    correction : int, optional
        Default 1.
    """
    x = is_floating("var", "input", input)
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    ddof = correction if correction is not None else (0 if unbiased is False else 1)
    dims = axes("var", dim, x.array.ndim)
    n = product(tuple(x.array.shape[d] for d in dims))
    deviation = arithmetic.sub(x, mean(x, dims, True))
    square = arithmetic.mul(deviation, deviation)
    total = scaled_sum(square, dims, keepdim, 1.0)
    return arithmetic.div(total, float(n - ddof)) if n > ddof else arithmetic.mul(total, float("nan"))


@mixed()
def std(
    input: Tensor,
    dim: Dims = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> Tensor:
    """Return the square root of ``var``."""
    return functions.sqrt(var(input, dim, unbiased, keepdim, correction=correction))


class MaxResult(NamedTuple):
    """What ``max`` and ``min`` along an axis return."""

    values: Tensor
    indices: Tensor


def _extreme(op: str, x: Tensor, d: int, keepdim: bool, largest: bool) -> MaxResult:
    """The largest or smallest element along an axis and its first position, off the tape."""
    shape = x.array.shape
    if x.array.ndim and shape[d] == 0:
        raise ShapeError(expected(op, "input", f"at least one element along axis {d}", f"shape {shape}"))
    dims = (d,) if x.array.ndim else ()
    view, kept = split_at(x, dims)
    out_shape: Shape = with_ones(shape, dims) if keepdim else kept
    values, indices = new(out_shape, x.dtype, x.device), new(out_shape, int64, x.device)
    flat = (view.shape[0], view.shape[2])
    if view.size:
        launch(x.device.kernels.extreme, view, largest, values.array.reshape(flat), indices.array.reshape(flat))
    return MaxResult(values, indices)


class Pick(Node):
    """One element along an axis by its position; the gradient goes there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (positions,) = self.unpack()
        shape, d = self.constants
        return (indexing.spread(movement.reshape(gy, positions.array.shape), positions, d, shape),)


class Extreme(Node):
    """The largest or smallest of all elements; equal ones share the gradient evenly."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        ties = cast(comparison.eq(x, self.unpack_output()), x.dtype)
        return (arithmetic.mul(gy, arithmetic.div(ties, sum(ties))),)


def _max_or_min(op: str, input: Tensor, dim: int | None, keepdim: bool, largest: bool) -> Any:
    x = is_tensor(op, "input", input)
    if dim is None:
        if x.array.size == 0:
            raise ShapeError(expected(op, "input", "at least one element", f"shape {x.array.shape}"))
        found = _extreme(op, movement.reshape(x.alias(), (-1,)), 0, False, largest).values
        return record(Extreme, found, (x,), (x,), save_output=True)
    d = axis(op, dim, x.array.ndim)
    values, indices = _extreme(op, x, d, keepdim, largest)
    if not x.array.ndim:
        return MaxResult(record(movement.Clone, values, (x,)), indices)
    positions = indices.alias(indices.array.reshape(with_ones(x.array.shape, (d,))))
    return MaxResult(record(Pick, values, (x,), (positions,), (x.array.shape, d)), indices)


@operation(Pick, Extreme)
def max(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """Return the largest element; with ``dim``, a pair (values, indices); with a tensor, the elementwise maximum.

    A NaN counts as largest. Along an axis the gradient goes to the first of equal elements; over all axes equal ones
    share it evenly.

    Raises
    ------
    ShapeError
        If there is no element.
    """
    if isinstance(dim, Tensor):
        return arithmetic.maximum(input, dim)
    return _max_or_min("max", input, dim, keepdim, True)


@operation(Pick, Extreme)
def min(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """Return the smallest element; with ``dim``, a pair (values, indices); with a tensor, the elementwise minimum.

    A NaN counts as smallest; gradients as in ``max``.
    """
    if isinstance(dim, Tensor):
        return arithmetic.minimum(input, dim)
    return _max_or_min("min", input, dim, keepdim, False)


def _position(op: str, input: Tensor, dim: int | None, keepdim: bool, largest: bool) -> Tensor:
    x = is_tensor(op, "input", input)
    if dim is None:
        found = _extreme(op, movement.reshape(x.alias(), (-1,)), 0, False, largest).indices
        return movement.reshape(found, (1,) * x.array.ndim) if keepdim else found
    return _extreme(op, x, axis(op, dim, x.array.ndim), keepdim, largest).indices


@operation()
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Return the position of the largest element, the first of equal ones, int64; in the flattened tensor without
    dim."""
    return _position("argmax", input, dim, keepdim, True)


@operation()
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Return the position of the smallest element, the first of equal ones, int64; in the flattened tensor without
    dim."""
    return _position("argmin", input, dim, keepdim, False)
