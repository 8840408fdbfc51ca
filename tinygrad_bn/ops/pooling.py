"""Pooling over planes: the last axis of a tensor, or its last two. Rules are closed: those of a maximum scatter and
gather at the places that were found, those of an average are each the other's.

What a window is, is said by ``functional.pooling``, which also checks what users pass.
"""

from __future__ import annotations

from typing import NamedTuple

from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.ops._common import new, plain
from tinygrad_bn.ops._layout import Shape, product

PARTS = 16  # of the planes, each with a row of scratch memory


class Window(NamedTuple):
    """A window that moves over a plane; one axis is a plane of one row."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    padding_h: int
    padding_w: int
    dilation_h: int
    dilation_w: int


class Tables(NamedTuple):
    """Windows for each row and column of a result, int64 (R, 3) each: first, end, and what they count."""

    rows: Array
    columns: Array


def planes(shape: Shape, axes: int) -> tuple[int, int, int]:
    """A shape as (P, H, W), the last one or two axes being the plane's."""
    height = shape[-2] if axes == 2 else 1
    return product(shape[:-axes]), height, shape[-1]


class MaxPool(Node):
    """gx = gy added where the maximum was found."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (index,) = self.unpack()
        return (pool_scatter(gy, index, *self.constants),)


@operation(MaxPool)
def max_pool(input: Tensor, window: Window, size: Shape) -> tuple[Tensor, Tensor]:
    """Return the maxima over a moving window, and their places in the plane.

    Parameters
    ----------
    input : Tensor, shape (…, W) or (…, H, W), floating point
    window : Window
    size : tuple of one or two int
        The extents of the result's last axes, as many as make a plane.

    Returns
    -------
    (Tensor, Tensor)
        The second is int64: row · W + column, of the first of equal maxima; of the last NaN where there is one, as in
        PyTorch; -1 where a window misses the plane, whose maximum then is -inf.
    """
    return _maxima(input, size, "max_pool", *window)


@operation(MaxPool, name="adaptive_max_pool")
def adaptive_max_pool(input: Tensor, tables: Tables, size: Shape) -> tuple[Tensor, Tensor]:
    """Return the maxima over the windows of tables, and their places, as ``max_pool``."""
    return _maxima(input, size, "adaptive_max_pool", *tables)


def _maxima(x: Tensor, size: Shape, name: str, *window: int | Array) -> tuple[Tensor, Tensor]:
    axes = len(size)
    shape = (*x.array.shape[:-axes], *size)
    out, index = new(shape, x.dtype, x.device), new(shape, int64, x.device)
    if out.array.size:
        flat = planes(shape, axes)
        source = plain(x).reshape(planes(x.array.shape, axes))
        launch(getattr(x.device.kernels, name), source, *window, out.array.reshape(flat), index.array.reshape(flat))
    return record(MaxPool, out, (x,), (index,), (x.array.shape, axes)), index


class PoolScatter(Node):
    """The gradient of what is added at places is gathered there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (index,) = self.unpack()
        return (pool_gather(gy, index, self.constants[0]),)


@operation(PoolScatter)
def pool_scatter(input: Tensor, index: Tensor, shape: Shape, axes: int) -> Tensor:
    """Return zeros of ``shape`` with the input added at its places in each plane: the gradient of ``max_pool``."""
    out = new(shape, input.dtype, input.device)
    p, h, w = planes(shape, axes)
    flat = (p, product(index.array.shape[-axes:]))
    if out.array.size:
        source, places = plain(input).reshape(flat), plain(index).reshape(flat)
        launch(input.device.kernels.pool_scatter, source, places, out.array.reshape(p, h, w))
    return record(PoolScatter, out, (input,), (index,), (axes,))


class PoolGather(Node):
    """The gradient of what is gathered from places is added there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (index,) = self.unpack()
        return (pool_scatter(gy, index, *self.constants),)


@operation(PoolGather)
def pool_gather(input: Tensor, index: Tensor, axes: int) -> Tensor:
    """Return the input's elements at places in each plane: the gradient of ``pool_scatter``."""
    out = new(index.array.shape, input.dtype, input.device)
    shape = planes(input.array.shape, axes)
    flat = (shape[0], product(index.array.shape[-axes:]))
    if out.array.size:
        source, places = plain(input).reshape(shape), plain(index).reshape(flat)
        launch(input.device.kernels.pool_gather, source, places, out.array.reshape(flat))
    return record(PoolGather, out, (input,), (index,), (input.array.shape, axes))


class AvgPool(Node):
    """gx = each gy, divided by what its window counts, added all over its window."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (avg_pool_backward(gy, *self.constants),)


@operation(AvgPool)
def avg_pool(input: Tensor, tables: Tables, axes: int) -> Tensor:
    """Return the sums over the windows of tables, divided by what the windows count.

    Parameters
    ----------
    input : Tensor, shape (…, W) or (…, H, W), floating point
    tables : Tables
        Windows within the plane, none of them empty.
    axes : {1, 2}
        How many of the last axes make a plane.
    """
    shape = input.array.shape
    rows, columns = tables
    size = (len(rows), len(columns))[2 - axes :]
    out = new((*shape[:-axes], *size), input.dtype, input.device)
    if out.array.size:
        flat = planes(shape, axes)
        work = input.device.empty((min(PARTS, flat[0]), flat[2]), input.dtype)
        result = out.array.reshape(flat[0], len(rows), len(columns))
        launch(input.device.kernels.avg_pool, plain(input).reshape(flat), rows, columns, work, result)
    return record(AvgPool, out, (input,), constants=(tables, shape, axes))


class AvgPoolBackward(Node):
    """Linear as it is, its gradient is the average again."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (avg_pool(gy, *self.constants),)


@operation(AvgPoolBackward)
def avg_pool_backward(gy: Tensor, tables: Tables, shape: Shape, axes: int) -> Tensor:
    """Return the gradient of ``avg_pool`` with respect to an input of ``shape``."""
    rows, columns = tables
    out = new(shape, gy.dtype, gy.device)
    if out.array.size:
        flat = planes(shape, axes)
        work = gy.device.empty((min(PARTS, flat[0]), flat[2]), gy.dtype)
        source = plain(gy).reshape(flat[0], len(rows), len(columns))
        launch(gy.device.kernels.avg_pool_backward, source, rows, columns, work, out.array.reshape(flat))
    return record(AvgPoolBackward, out, (gy,), constants=(tables, axes))
