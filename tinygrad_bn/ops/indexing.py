"""Indexing as NumPy and PyTorch do it: basic (views) and advanced (copies), reading and writing.

An advanced index is brought to positions in the leading axes taken as one; rows are taken from there, and gradients
added there, in order. Integer tensors over the first axes are combined by a kernel; other mixtures on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.core.dtype import bool_, int64
from tinygrad_bn.core.launch import launch, launch_checked, reads_values
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Array, Tensor, wrap
from tinygrad_bn.errors import DTypeError, IndexRangeError, ShapeError, expected, wrong
from tinygrad_bn.ops import _operands, movement
from tinygrad_bn.ops._broadcast import broadcast_shape
from tinygrad_bn.ops._common import is_tensor, new, number, operand, plain, raw, same_device, table
from tinygrad_bn.ops._layout import Shape, product

BASIC = (int, np.integer, slice, type(None), type(Ellipsis))


def index_items(index: Any) -> tuple[Any, ...]:
    """The index as a tuple; lists, arrays and boolean numbers as tensors."""
    items = index if isinstance(index, tuple) else (index,)
    return tuple(_item(i) for i in items)


def _item(item: Any) -> Any:
    if isinstance(item, bool | np.bool_ | list | np.ndarray):
        item = wrap(np.asarray(item), op="indexing")
    if isinstance(item, Tensor):
        if item.dtype.is_floating_point:
            raise DTypeError(wrong("indexing", "index", "an integer or boolean tensor", item.dtype.name))
        if item.dtype is not bool_ and item.array.ndim == 0:
            reads_values("indexing by a tensor without axes")
            return int(number(item))
    elif not isinstance(item, BASIC):
        want = "an int, slice, None, Ellipsis, tensor, array or list"
        raise DTypeError(wrong("indexing", "index", want, type(item).__name__))
    elif isinstance(item, slice) and item.step is not None and item.step < 0:
        raise IndexRangeError("indexing: 'step' of a slice must be positive. Got a negative one.\nHint: use flip().")
    return item


def _basic(array: Array, items: tuple[Any, ...]) -> Array:
    try:
        found: Array = array[items if any(i is Ellipsis for i in items) else (*items, Ellipsis)]
    except IndexError as error:
        raise IndexRangeError(f"indexing: {error}. Got an index into shape {array.shape}.") from None
    return found


class Slice(Node):
    """A view by ints, slices, None and Ellipsis; the gradient is put back among zeros."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (unslice(gy, *self.constants),)


class Unslice(Node):
    """Zeros but for a basic index, where the input stands."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (getitem(gy, self.constants[0]),)


@operation(Unslice)
def unslice(input: Tensor, shape: Shape, items: tuple[Any, ...]) -> Tensor:
    """Return zeros of ``shape`` with the input at a basic index: the gradient of a view."""
    x = is_tensor("unslice", "input", input)
    out = new(shape, x.dtype, x.device)
    launch(x.device.kernels.fill, 0, out.array)
    launch(x.device.kernels.copy, x.array, _basic(out.array, items))
    return record(Unslice, out, (x,), constants=(items,))


@operation(Slice, name="getitem")
def getitem(input: Tensor, index: Any) -> Tensor:
    """Return input[index]: a view for ints, slices, None and Ellipsis, a copy for tensors, arrays, lists and masks.

    Raises
    ------
    IndexRangeError
        If an index is out of range.
    """
    x = is_tensor("indexing", "input", input)
    items = index_items(index)
    if not any(isinstance(i, Tensor) for i in items):
        return record(Slice, x.alias(_basic(x.array, items)), (x,), constants=(x.array.shape, items))
    positions, axes = _positions(x, items)
    rest = x.array.shape[axes:]
    rows = movement.reshape(x, (product(x.array.shape[:axes]), product(rest)))
    taken = take_rows(rows, positions.alias(positions.array.reshape(-1)))
    return movement.reshape(taken, positions.array.shape + rest)


def _positions(x: Tensor, items: tuple[Any, ...]) -> tuple[Tensor, int]:
    """The positions, int64, that an advanced index selects in the leading axes taken as one; and how many axes these
    are."""
    if all(isinstance(i, Tensor) and i.dtype is not bool_ for i in items) and len(items) <= x.array.ndim:
        return _ravelled(x, items), len(items)
    reads_values("indexing by a mask, or by tensors and slices together")
    axes = x.array.ndim
    if not any(i is Ellipsis for i in items):
        axes = sum(i.array.ndim if isinstance(i, Tensor) and i.dtype is bool_ else i is not None for i in items)
    shape = x.array.shape[:axes]
    every = np.arange(product(shape)).reshape(shape)
    try:
        found = every[tuple(i.device.to_host(i.array) if isinstance(i, Tensor) else i for i in items)]
    except IndexError as error:
        raise IndexRangeError(f"indexing: {error}. Got an index into shape {x.array.shape}.") from None
    return wrap(np.ascontiguousarray(found), x.device), axes


def _ravelled(x: Tensor, items: tuple[Tensor, ...]) -> Tensor:
    """Integer tensors over the first axes, combined into one position each by a kernel that checks them."""
    shape = broadcast_shape("indexing", [i.array.shape for i in items])
    kernels = x.device.kernels
    together = x.device.empty((len(items), *shape), int64)
    for n, i in enumerate(items):
        array = i.array if i.device is x.device else movement.to(i, device=x.device).array
        launch(kernels.copy, np.broadcast_to(array, shape, subok=True), together[n])
    out = new(shape, int64, x.device)
    extents = table(np.array(x.array.shape[: len(items)], np.int64), x.device)
    flat = together.reshape(len(items), -1) if out.array.size else together.reshape(len(items), 0)
    launch_checked(x.device, "indexing", kernels.ravel_index, flat, extents, out.array.reshape(-1))
    return out


class TakeRows(Node):
    """y_m = x[positions_m]; gradients are added where rows came from."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (positions,) = self.unpack()
        return (add_rows(gy, positions, self.constants[0]),)


@operation(TakeRows)
def take_rows(input: Tensor, positions: Tensor) -> Tensor:
    """Return rows of a (S, R) tensor by valid positions (M,) int64."""
    out = new((positions.array.shape[0], input.array.shape[1]), input.dtype, input.device)
    source, into = raw(plain(input), input.dtype), raw(out.array, input.dtype)
    launch(input.device.kernels.take_rows, source, positions.array, into)
    return record(TakeRows, out, (input,), (positions,), (input.array.shape,))


class AddRows(Node):
    """y = zeros with x_m added at positions_m."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (positions,) = self.unpack()
        return (take_rows(gy, positions),)


@operation(AddRows)
def add_rows(input: Tensor, positions: Tensor, shape: Shape) -> Tensor:
    """Return zeros of shape (S, R) with the rows of the input added at positions: the gradient of take_rows."""
    out = new(shape, input.dtype, input.device)
    launch(input.device.kernels.fill, 0, out.array)
    launch(input.device.kernels.add_rows, plain(input), positions.array, out.array)
    return record(AddRows, out, (input,), (positions,))


class Spread(Node):
    """y = zeros with x added along an axis at positions."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (positions,) = self.unpack()
        return (take_along(gy, positions, self.constants[0]),)


@operation(Spread)
def spread(input: Tensor, positions: Tensor, dim: int, shape: Shape) -> Tensor:
    """Return zeros of ``shape`` with the input added along ``dim`` at valid positions: the gradient of take_along."""
    out = new(shape, input.dtype, input.device)
    a, b = product(shape[:dim]), product(shape[dim + 1 :])
    m = input.array.shape[dim]
    view = out.array.reshape(a, shape[dim], b)
    launch(input.device.kernels.spread, plain(input).reshape(a, m, b), plain(positions).reshape(a, m, b), view)
    return record(Spread, out, (input,), (positions,), (dim,))


class TakeAlong(Node):
    """y = the elements along an axis at positions."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (positions,) = self.unpack()
        dim, shape = self.constants
        return (spread(gy, positions, dim, shape),)


@operation(TakeAlong)
def take_along(input: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Return the elements along ``dim`` at valid positions, whose other axes match the input's."""
    shape = input.array.shape
    out = new(positions.array.shape, input.dtype, input.device)
    a, b = product(shape[:dim]), product(shape[dim + 1 :])
    m = positions.array.shape[dim]
    view = raw(out.array, input.dtype).reshape(a, m, b)
    source = raw(plain(input), input.dtype).reshape(a, shape[dim], b)
    launch(input.device.kernels.take_along, source, plain(positions).reshape(a, m, b), view)
    return record(TakeAlong, out, (input,), (positions,), (dim, shape))


class SetItem(Node):
    """y = x with x[index] replaced by v: the gradient of x is 0 there, that of v is gy there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        items, shape, dtype = self.constants
        gx = gv = None
        if self.inputs[0] is not None:
            gx = set_item(gy, items, 0.0)
        if self.inputs[1] is not None:
            gv = _operands.fit(movement.to(getitem(gy, items), dtype), shape)
        return gx, gv


@operation(SetItem)
def set_item(input: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of the input with the elements at an index replaced: what ``x[index] = value`` puts on the tape."""
    out = movement.clone(input.alias())
    items = index_items(index)
    v = assigned(input, value)
    write(out, items, v)
    return record(SetItem, out, (input, v), constants=(items, v.array.shape, v.dtype))


def assigned(x: Tensor, value: Any) -> Tensor:
    """What is written into elements of x, as a tensor on its device without leading axes of extent 1."""
    v = operand("indexing", "value", value, x)
    same_device("indexing", x, "value", v)
    if v.dtype is not x.dtype and (v.dtype.low or x.dtype.low):
        v = movement.to(v, x.dtype)
    shape = v.array.shape
    lead = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    return movement.reshape(v, shape[lead:]) if lead else v


def write(x: Tensor, items: tuple[Any, ...], value: Tensor) -> None:
    """Write a value into the elements at an index, in place, off the tape."""
    kernels = x.device.kernels
    if not any(isinstance(i, Tensor) for i in items):
        view = _basic(x.array, items)
        _fits(value, view.shape)
        launch(kernels.copy, value.array, view)
        return
    positions, axes = _positions(x, items)
    rest = x.array.shape[axes:]
    shape = positions.array.shape + rest
    _fits(value, shape)
    source = x.device.empty(shape, x.dtype)
    launch(kernels.copy, np.broadcast_to(value.array, shape, subok=True), source)
    target = plain(x)
    flat = target.reshape(product(x.array.shape[:axes]), product(rest))
    at = positions.array.reshape(-1)
    launch(kernels.put_rows, raw(source, x.dtype).reshape(at.size, product(rest)), at, raw(flat, x.dtype))
    if target is not x.array:
        launch(kernels.copy, target, x.array)


def _fits(value: Tensor, shape: Shape) -> None:
    lead = value.array.ndim - len(shape)
    extents = value.array.shape
    tail = extents[lead:] if lead > 0 else extents
    offset = len(shape) - len(tail)
    if any(n != 1 for n in extents[: max(lead, 0)]) or any(n not in (1, shape[offset + i]) for i, n in enumerate(tail)):
        raise ShapeError(expected("indexing", "value", f"a shape that broadcasts to {shape}", extents))
