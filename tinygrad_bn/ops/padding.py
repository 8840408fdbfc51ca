"""Padding, flipping, and reading planes at other rows and columns.

Constants are padded with, and cropped, by a fill and a copy; every other way to pad, and upsampling, reads each axis
of the input at given positions, and its gradient adds up where that read.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops._common import Scalar, as_shape, axis, is_tensor, new, plain, table
from tinygrad_bn.ops._layout import Shape
from tinygrad_bn.ops.pooling import planes

Sides = tuple[tuple[int, int], ...]


class Pad(Node):
    """The gradient loses what was put on, and has zeros where something was cut off."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (pad_constant(gy, self.constants[0], 0),)


@operation(Pad)
def pad_constant(input: Tensor, sides: Sides, value: Scalar) -> Tensor:
    """Return the input with a constant put on its sides.

    Parameters
    ----------
    input : Tensor, any shape and dtype
    sides : tuple of (int, int)
        For each axis, what is put before and behind it; negative numbers cut off. No extent may become negative.
    value : number
    """
    shape = input.array.shape
    out = new(tuple(n + a + b for n, (a, b) in zip(shape, sides, strict=True)), input.dtype, input.device)
    kernels = input.device.kernels
    source, target = input.array, out.array
    for d, (n, (a, b)) in enumerate(zip(shape, sides, strict=True)):
        ahead = (slice(None),) * d
        first, end = max(0, -a), max(max(0, -a), n + min(0, b))
        at = max(0, a)
        stop = at + end - first
        for edge in (slice(0, at), slice(stop, None)):
            if target[(*ahead, edge)].size:
                launch(kernels.fill, value, target[(*ahead, edge)])
        source, target = source[(*ahead, slice(first, end))], target[(*ahead, slice(at, stop))]
    if target.size:
        launch(kernels.copy, source, target)
    return record(Pad, out, (input,), constants=(tuple((-a, -b) for a, b in sides),))


class Flip(Node):
    """y = x, backwards along some axes."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (flip(gy, self.constants[0]),)


@operation(Flip)
def flip(input: Tensor, *dims: Any) -> Tensor:
    """Return a copy with the order of elements reversed along some axes.

    Parameters
    ----------
    input : Tensor, any shape and dtype
    *dims : int or one sequence of int

    Raises
    ------
    ShapeError
        If an axis does not exist.
    ArgumentError
        If one is repeated.
    """
    x = is_tensor("flip", "input", input)
    given = as_shape("flip", dims, "dims")
    found = tuple(axis("flip", d, x.array.ndim, "dims") for d in given)
    if len(set(found)) != len(found):
        raise ArgumentError(wrong("flip", "dims", "free of repeated axes", given))
    out = new(x.array.shape, x.dtype, x.device)
    turned = tuple(slice(None, None, -1 if d in found else None) for d in range(x.array.ndim))
    launch(x.device.kernels.copy, x.array[turned], out.array)
    return record(Flip, out, (x,), constants=(found,))


class TakeGrid(Node):
    """The gradient of what is read at rows and columns is added there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (add_grid(gy, *self.constants),)


@operation(TakeGrid)
def take_grid(input: Tensor, rows: Array, columns: Array, axes: int) -> Tensor:
    """Return the planes of a tensor, its last one or two axes, read at rows and columns.

    Parameters
    ----------
    input : Tensor, shape (…, W) or (…, H, W)
    rows, columns : numpy.ndarray, one axis, int64
        Valid positions; rows [0] for planes of one axis.
    axes : {1, 2}
    """
    shape = input.array.shape
    size = (len(rows), len(columns))[2 - axes :]
    out = new((*shape[:-axes], *size), input.dtype, input.device)
    if out.array.size:
        flat = planes(shape, axes)
        result = out.array.reshape(flat[0], len(rows), len(columns))
        at = table(rows, input.device), table(columns, input.device)
        launch(input.device.kernels.take_grid, plain(input).reshape(flat), *at, result)
    return record(TakeGrid, out, (input,), constants=(rows, columns, shape, axes))


class AddGrid(Node):
    """The gradient of what is added at rows and columns is read there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (take_grid(gy, *self.constants),)


@operation(AddGrid)
def add_grid(gy: Tensor, rows: Array, columns: Array, shape: Shape, axes: int) -> Tensor:
    """Return zeros of ``shape`` with gy added at rows and columns of its planes: the gradient of ``take_grid``."""
    out = new(shape, gy.dtype, gy.device)
    if out.array.size:
        flat = planes(shape, axes)
        source = plain(gy).reshape(flat[0], len(rows), len(columns))
        at = table(rows, gy.device), table(columns, gy.device)
        launch(gy.device.kernels.add_grid, source, *at, out.array.reshape(flat))
    return record(AddGrid, out, (gy,), constants=(rows, columns, axes))
