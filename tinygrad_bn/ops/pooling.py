"""Pooling over planes: the last axis of a tensor, or its last two. Rules are closed: those of a maximum scatter and
gather at the places that were found, those of an average are each the other's.

What a window is, is said by ``functional.pooling``, which also checks what users pass. ``max_pool`` and ``mean_pool``
have windows that move by a stride; ``adaptive_max_pool`` and ``avg_pool`` have any, from tables.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import int8, int32, int64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.kernels.windows import Geometry, backward_work, forward_work
from tinygrad_bn.ops._common import new, plain, table
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
    """What is known of each row and column of a result: windows, int64 (R, 3), their first, end, and what they count;
    or what they count alone, int64 (R,)."""

    rows: Array
    columns: Array


def _on(x: Tensor, tables: Tables) -> tuple[Array, Array]:
    """Tables as kernels of a tensor's device take them."""
    return table(tables.rows, x.device), table(tables.columns, x.device)


def planes(shape: Shape, axes: int) -> tuple[int, int, int]:
    """A shape as (P, H, W), the last one or two axes being the plane's."""
    height = shape[-2] if axes == 2 else 1
    return product(shape[:-axes]), height, shape[-1]


@lru_cache(maxsize=1024)
def _work_sizes(plane: Shape, size: Shape, window: Window) -> tuple[int, int]:
    """Elements of workspace of each share of the planes, forward and backward."""
    geometry = Geometry._make((*plane, *size, *window))
    return forward_work(geometry), backward_work(geometry)


# -------------------------------------------------------------------------------------------------------------- maxima


class MaxPool(Node):
    """gx = gy added where the maximum was found."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (max_pool_backward(gy, *self.constants),)


@operation(MaxPool)
def max_pool(input: Tensor, window: Window, size: Shape, places: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return the maxima over a moving window, and their places in the plane if they are asked for.

    Parameters
    ----------
    input : Tensor, shape (…, W) or (…, H, W), floating point
    window : Window
    size : tuple of one or two int
        The extents of the result's last axes, as many as make a plane.
    places : bool

    Returns
    -------
    (Tensor, Tensor or None)
        The second is int64: row · W + column, of the first of equal maxima; of the last NaN where there is one, as in
        PyTorch; -1 where a window misses the plane, whose maximum then is -inf.

    Notes
    -----
    What backward needs of a place is which of its window's elements it is: one byte for windows of up to 127.
    """
    x, axes = input, len(size)
    shape = x.array.shape
    out = new((*shape[:-axes], *size), x.dtype, x.device)
    p, h, w = planes(shape, axes)
    flat = planes(out.array.shape, axes)
    code = x.device.empty(flat, int8 if window[0] * window[1] < 128 else int32)
    if code.size:
        work = x.device.empty((min(PARTS, p), _work_sizes((h, w), flat[1:], window)[0]), x.dtype)
        launch(x.device.kernels.max_pool, plain(x).reshape(p, h, w), *window, work, out.array.reshape(flat), code)
    return record(MaxPool, out, (x,), constants=(code, window, shape, axes)), (
        _places(code, window, w, out.array.shape, x.device) if places else None
    )


def _places(code: Array, window: Window, width: int, shape: Shape, device: Device) -> Tensor:
    """The places of maxima whose codes are given, in a plane of that width."""
    index = new(shape, int64, device)
    if code.size:
        launch(device.kernels.max_pool_places, code, *window, width, index.array.reshape(code.shape))
    return index


class MaxPoolBackward(Node):
    """The gradient of what is added at places is gathered there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        code, window, axes, shape = self.constants
        return (pool_gather(gy, _places(code, window, gy.array.shape[-1], shape, gy.device), axes),)


@operation(MaxPoolBackward)
def max_pool_backward(gy: Tensor, code: Array, window: Window, shape: Shape, axes: int) -> Tensor:
    """Return the gradient of ``max_pool`` with respect to an input of ``shape``: gy added at the maxima, which codes
    say."""
    out = new(shape, gy.dtype, gy.device)
    if out.array.size:
        p, h, w = planes(shape, axes)
        work = gy.device.empty((min(PARTS, p), _work_sizes((h, w), code.shape[1:], window)[1]), gy.dtype)
        source = plain(gy).reshape(code.shape)
        launch(gy.device.kernels.max_pool_backward, source, code, *window, work, out.array.reshape(p, h, w))
    return record(MaxPoolBackward, out, (gy,), constants=(code, window, axes, gy.array.shape))


class AdaptiveMaxPool(Node):
    """gx = gy added where the maximum was found."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (index,) = self.unpack()
        return (pool_scatter(gy, index, *self.constants),)


@operation(AdaptiveMaxPool)
def adaptive_max_pool(input: Tensor, tables: Tables, size: Shape) -> tuple[Tensor, Tensor]:
    """Return the maxima over the windows of tables, and their places, as ``max_pool``."""
    x, axes = input, len(size)
    shape = (*x.array.shape[:-axes], *size)
    out, index = new(shape, x.dtype, x.device), new(shape, int64, x.device)
    if out.array.size:
        flat = planes(shape, axes)
        source = plain(x).reshape(planes(x.array.shape, axes))
        kernel = x.device.kernels.adaptive_max_pool
        launch(kernel, source, *_on(x, tables), out.array.reshape(flat), index.array.reshape(flat))
    return record(AdaptiveMaxPool, out, (x,), (index,), (x.array.shape, axes)), index


class PoolScatter(Node):
    """The gradient of what is added at places is gathered there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (index,) = self.unpack()
        return (pool_gather(gy, index, self.constants[0]),)


@operation(PoolScatter)
def pool_scatter(input: Tensor, index: Tensor, shape: Shape, axes: int) -> Tensor:
    """Return zeros of ``shape`` with the input added at its places in each plane."""
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


# ------------------------------------------------------------------------------------------------------------- averages


class MeanPool(Node):
    """gx = each gy, divided by what its window counts, added all over its window."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (mean_pool_backward(gy, *self.constants),)


@operation(MeanPool)
def mean_pool(input: Tensor, window: Window, counts: Tables, axes: int) -> Tensor:
    """Return the sums over a moving window, divided by what the windows count.

    Parameters
    ----------
    input : Tensor, shape (…, W) or (…, H, W), floating point
    window : Window
        Of dilation 1.
    counts : Tables
        What the windows of each row and column count, int64 (R,) and (C,): the divisors are their products.
    axes : {1, 2}
        How many of the last axes make a plane.
    """
    x, shape = input, input.array.shape
    flat = (product(shape[:-axes]), counts.rows.size, counts.columns.size)
    out = x.device.empty(flat, x.dtype)
    if out.size:
        p, h, w = planes(shape, axes)
        work = x.device.empty((min(PARTS, p), _work_sizes((h, w), flat[1:], window)[0]), x.dtype)
        launch(x.device.kernels.mean_pool, plain(x).reshape(p, h, w), *window[:6], *_on(x, counts), work, out)
    y = Tensor(out.reshape(*shape[:-axes], *flat[3 - axes :]), x.dtype, x.device)
    return record(MeanPool, y, (x,), constants=(window, counts, shape, axes))


class MeanPoolBackward(Node):
    """Linear as it is, its gradient is the average again."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (mean_pool(gy, *self.constants),)


@operation(MeanPoolBackward)
def mean_pool_backward(gy: Tensor, window: Window, counts: Tables, shape: Shape, axes: int) -> Tensor:
    """Return the gradient of ``mean_pool`` with respect to an input of ``shape``."""
    out = new(shape, gy.dtype, gy.device)
    if out.array.size:
        p, h, w = planes(shape, axes)
        size = (counts.rows.size, counts.columns.size)
        work = gy.device.empty((min(PARTS, p), _work_sizes((h, w), size, window)[1]), gy.dtype)
        source = plain(gy).reshape(p, *size)
        kernel = gy.device.kernels.mean_pool_backward
        launch(kernel, source, *window[:6], *_on(gy, counts), work, out.array.reshape(p, h, w))
    return record(MeanPoolBackward, out, (gy,), constants=(window, counts, axes))


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
        launch(input.device.kernels.avg_pool, plain(input).reshape(flat), *_on(input, tables), work, result)
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
        launch(gy.device.kernels.avg_pool_backward, source, *_on(gy, tables), work, out.array.reshape(flat))
    return record(AvgPoolBackward, out, (gy,), constants=(tables, axes))
