"""Sums, means and repetition: summing over axes and expanding along them are each the other's gradient.

Sums accumulate in float64 or by compensated summation, whatever the dtype.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinygrad_bn.core.dtype import as_dtype, float64, int64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ShapeError, expected
from tinygrad_bn.kernels.ref.reduction import SHARE
from tinygrad_bn.ops._broadcast import unbroadcast_axes
from tinygrad_bn.ops._common import as_shape, axes, is_floating, is_tensor, new
from tinygrad_bn.ops._layout import product, split_at, with_ones
from tinygrad_bn.ops.movement import reshape, to

LONG = 1 << 17  # elements of a row that is summed in shares
Dims = int | tuple[int, ...] | list[int] | None


class Sum(Node):
    """y = scale · Σ x: every element's gradient is scale · gy."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        shape, dims, scale = self.constants
        g = scaled_sum(gy, (), True, scale) if scale != 1.0 else gy
        return (expand(reshape(g, with_ones(shape, dims)), shape),)


def _last_run(dims: tuple[int, ...]) -> int:
    """How many of the last axes lie side by side."""
    n = 1
    while n < len(dims) and dims[-n - 1] == dims[-n] - 1:
        n += 1
    return n


def _sum_array(x: Tensor, dims: tuple[int, ...], scale: float) -> Array:
    """Sum over axes, kept at extent 1, from the last run of adjacent ones to the first."""
    n = _last_run(dims) if len(dims) > 1 else len(dims)
    run, rest = (dims, ()) if n == len(dims) else (dims[-n:], dims[:-n])
    view, _ = split_at(x, run)
    out = x.device.empty(with_ones(x.array.shape, run), x.dtype)
    flat = out.reshape(view.shape[0], view.shape[2])
    if view.size > LONG and flat.size == 1:
        parts = x.device.empty((-(-view.size // SHARE),), float64)
        launch(x.device.kernels.sum_all, view, 1.0 if rest else scale, parts, flat)
    elif view.size:
        launch(x.device.kernels.sum, view, 1.0 if rest else scale, flat)
    else:
        launch(x.device.kernels.fill, 0.0 * scale, flat)
    return _sum_array(Tensor(out, x.dtype, x.device), rest, scale) if rest else out


def scaled_sum(x: Tensor, dims: tuple[int, ...], keepdim: bool, scale: float) -> Tensor:
    array = _sum_array(x, dims, scale)
    if not keepdim:
        array = array.reshape(tuple(n for i, n in enumerate(x.array.shape) if i not in dims))
    return record(Sum, Tensor(array, x.dtype, x.device), (x,), constants=(x.array.shape, dims, scale))


def _direct_sum(x: Tensor, dim: Dims, keepdim: bool, scale: float) -> Tensor | None:
    """The sum over all axes or over one of a contiguous tensor, by the shortest way; None where it is not that."""
    array = x.array
    shape = array.shape
    if not x.contiguous_array or not array.size:
        return None
    if dim is None:
        view, out_shape = (1, array.size, 1), (1,) * len(shape) if keepdim else ()
        dims = tuple(range(len(shape)))
    elif dim.__class__ is int and -len(shape) <= dim < len(shape):
        d = dim % len(shape)
        view = (prod(shape[:d]), shape[d], prod(shape[d + 1 :]))
        out_shape, dims = (*shape[:d], 1, *shape[d + 1 :]) if keepdim else shape[:d] + shape[d + 1 :], (d,)
    else:
        return None
    device, dtype = x.device, x.dtype
    out = device.empty(out_shape, dtype)
    if array.size > LONG and out.size == 1:
        parts = device.empty((-(-array.size // SHARE),), float64)
        launch(device.kernels.sum_all, array.reshape(view), scale, parts, out.reshape(1, 1))
    else:
        launch(device.kernels.sum, array.reshape(view), scale, out.reshape(view[0], view[2]))
    y = Tensor(out, dtype, device)
    return y if x.node is None else record(Sum, y, (x,), constants=(shape, dims, scale))


def column_sum(x: Tensor) -> Tensor:
    """Return the sum over the first of two axes: the gradient of a bias, by the shortest way."""
    rows, columns = x.array.shape
    if not x.contiguous_array or not x.array.size:
        return scaled_sum(x, (0,), False, 1.0)
    out = x.device.empty((columns,), x.dtype)
    launch(x.device.kernels.sum, x.array.reshape(1, rows, columns), 1.0, out.reshape(1, columns))
    return record(Sum, Tensor(out, x.dtype, x.device), (x,), constants=((rows, columns), (0,), 1.0))


@operation(Sum)
def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the sum over axes (all by default); integers and booleans are summed in int64.

    Parameters
    ----------
    dim : int or tuple of int, optional
    keepdim : bool
        Keep the reduced axes at extent 1.
    dtype : DType, optional
        Convert to this dtype first.
    """
    x = is_tensor("sum", "input", input)
    if dtype is not None:
        x = to(x, as_dtype(dtype, "sum"))
    if x.dtype.is_floating_point:
        direct = _direct_sum(x, dim, keepdim, 1.0)
        return direct if direct is not None else scaled_sum(x, axes("sum", dim, x.array.ndim), keepdim, 1.0)
    dims = axes("sum", dim, x.array.ndim)
    view, kept = split_at(x, dims)
    out = new(with_ones(x.array.shape, dims) if keepdim else kept, int64, x.device)
    launch(x.device.kernels.sum_int, view, out.array.reshape(view.shape[0], view.shape[2]))
    return out


@operation(Sum, name="mean")
def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the mean over axes (all by default); NaN of no elements.

    Raises
    ------
    DTypeError
        For integers: convert them first.
    """
    x = to(input, as_dtype(dtype, "mean")) if dtype is not None else is_floating("mean", "input", input)
    dims = axes("mean", dim, x.array.ndim)
    n = product(tuple(x.array.shape[d] for d in dims))
    return scaled_sum(x, dims, keepdim, 1.0 / n if n else float("nan"))


class Expand(Node):
    """Axes of extent 1 repeated; the gradient sums over them."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        shape = self.constants[0]
        over = unbroadcast_axes(gy.array.shape, shape)
        return (reshape(sum(gy, over), shape) if over else reshape(gy, shape),)


@operation(Expand)
def expand(input: Tensor, *size: Any) -> Tensor:
    """Return a view in which axes of extent 1 are repeated, and new ones are put in front; -1 keeps an axis.

    The view's elements share memory: do not change it in place.

    Raises
    ------
    ShapeError
        If the tensor's shape does not broadcast to ``size``.
    """
    x = is_tensor("expand", "input", input)
    wanted = as_shape("expand", size)
    lead = len(wanted) - x.array.ndim
    resolved = tuple(x.array.shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(wanted))
    if lead < 0 or any(n not in (1, m) for n, m in zip(x.array.shape, resolved[lead:], strict=True)) or -1 in resolved:
        raise ShapeError(expected("expand", "size", f"a shape to which {x.array.shape} broadcasts", wanted))
    view = np.lib.stride_tricks.as_strided(
        x.array,
        resolved,
        (0,) * lead + tuple(0 if n == 1 else s for n, s in zip(x.array.shape, x.array.strides)),
        subok=True,
    )
    return record(Expand, x.alias(view), (x,), constants=(x.array.shape,))
