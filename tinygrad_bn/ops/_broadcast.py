"""Bring the operands of an elementwise kernel into one of its two forms: flat, or four axes that broadcast.

Operands of the same dense layout, whatever the order of their axes, are taken flat as they lie in memory, and so is the
result: channels_last stays channels_last. Adjacent axes that broadcast alike are collapsed into one; what needs more
than four axes then is expanded by a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_bn.core.dtype import DType
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.tensor import Array, Tensor, is_plain
from tinygrad_bn.errors import ShapeError
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.ops._common import plain
from tinygrad_bn.ops._layout import product

Shape = tuple[int, ...]


def broadcast_shape(op: str, shapes: Sequence[Shape]) -> Shape:
    """Return the shape to which all broadcast.

    Raises
    ------
    ShapeError
        If they do not.
    """
    first = shapes[0]
    if all(s == first for s in shapes):
        return first
    ndim = max(len(s) for s in shapes)
    out = [1] * ndim
    for shape in shapes:
        for i, extent in enumerate(shape, ndim - len(shape)):
            if out[i] == 1:
                out[i] = extent
            elif extent not in (1, out[i]):
                text = " and ".join(str(s) for s in shapes)
                raise ShapeError(f"{op}: shapes must broadcast: axes equal or 1, counted from the last. Got {text}.")
    return tuple(out)


def run_unary(op: str, kernel: Kernel, x: Tensor, dtype: DType) -> Tensor:
    """Launch an elementwise kernel on one operand of any strides; return the result."""
    array = x.array
    if not x.contiguous_array or not array.size:
        return run_elementwise(op, kernel, (x,), dtype)
    device = x.device
    out = device.empty(array.shape, dtype)
    launch(kernel, array.ravel(), out.ravel())
    return Tensor(out, dtype, device)


def run_binary(op: str, kernel: Kernel, x: Tensor, y: Tensor, dtype: DType) -> Tensor:
    """Launch an elementwise kernel on two operands of any shapes and strides; return the result."""
    a, b = x.array, y.array
    shape = a.shape
    if shape != b.shape and b.shape != ():
        if shape != ():
            if shape[-1:] == b.shape and x.contiguous_array and y.contiguous_array and a.size:
                return _run_rows(kernel, x, y, dtype)
            return run_elementwise(op, kernel, (x, y), dtype)
        shape = b.shape
    if not (x.contiguous_array and y.contiguous_array and a.size and b.size):
        return run_elementwise(op, kernel, (x, y), dtype)
    device = x.device
    out = device.empty(shape, dtype)
    launch(kernel, a.ravel(), b.ravel(), out.ravel())
    return Tensor(out, dtype, device)


def _run_rows(kernel: Kernel, x: Tensor, y: Tensor, dtype: DType) -> Tensor:
    """``run_binary`` of an operand and a row that all its rows meet: a bias."""
    device, array = x.device, x.array
    out = device.empty(array.shape, dtype)
    n = array.shape[-1]
    four = (1, 1, array.size // n, n)
    launch(kernel, array.reshape(four), y.array.reshape(1, 1, 1, n), out.reshape(four))
    return Tensor(out, dtype, device)


def run_elementwise(op: str, kernel: Kernel, operands: tuple[Tensor, ...], dtype: DType) -> Tensor:
    """Launch an elementwise kernel on operands of any number, shapes and strides; return the result."""
    views, flat, outs = arranged(op, operands, dtype, 1)
    if views:
        launch(kernel, *views, *flat)
    return outs[0]


def arranged(
    op: str, operands: tuple[Tensor, ...], dtype: DType, count: int
) -> tuple[list[Array], list[Array], list[Tensor]]:
    """Bring operands of any shapes and strides into one of the two forms, and allocate results.

    Returns
    -------
    views : list of array
        The operands as a kernel takes them; none where there is nothing to compute.
    flat : list of array
        The results as a kernel takes them.
    outs : list of Tensor
        The results, ``count`` of them.
    """
    device = operands[0].device
    shape, grouped, out_grouped = _plan(op, tuple([x.array.shape for x in operands]))
    if 0 in shape:
        return [], [], [Tensor(device.empty(shape, dtype), dtype, device) for _ in range(count)]
    order = _common_order(operands, shape)
    if order is not None:
        arrays = [device.empty(tuple(shape[i] for i in order), dtype) for _ in range(count)]
        outs = [_strided(a.transpose(np.argsort(order)), dtype, operands[0]) for a in arrays]
        return [_in_order(x.array, order).ravel() for x in operands], [a.ravel() for a in arrays], outs
    outs = [Tensor(device.empty(shape, dtype), dtype, device) for _ in range(count)]
    if grouped:
        views = [plain(x).reshape(extents) for x, extents in zip(operands, grouped)]
        return views, [t.array.reshape(out_grouped) for t in outs], outs
    return [_expanded(x, shape).ravel() for x in operands], [t.array.ravel() for t in outs], outs


@lru_cache(maxsize=4096)
def _plan(op: str, shapes: tuple[Shape, ...]) -> tuple[Shape, tuple[Shape, ...], Shape]:
    """The broadcast shape, and the operands' and its own extents: flat where only single elements are broadcast, else
    in four axes; none where four do not suffice."""
    shape = broadcast_shape(op, shapes)
    groups = _collapse(shape, shapes)
    if len(groups) > 4:
        return shape, (), ()
    return shape, tuple(_grouped(s, shape, groups) for s in shapes), _grouped(shape, shape, groups)


def _strided(array: Array, dtype: DType, like: Tensor) -> Tensor:
    out = Tensor(array, dtype, like.device)
    out.contiguous_array = is_plain(array)
    return out


def _common_order(operands: Sequence[Tensor], shape: Shape) -> tuple[int, ...] | None:
    """The order of axes in which all operands lie densely in memory, if there is one and it is not the plain one."""
    full = [x.array for x in operands if x.array.ndim]
    if all(x.contiguous_array for x in operands) or any(a.shape != shape for a in full):
        return None
    strides = full[0].strides
    order = tuple(sorted(range(len(shape)), key=lambda i: (-abs(strides[i]), i)))
    return order if all(is_plain(a.transpose(order)) for a in full) else None


def _in_order(array: Array, order: tuple[int, ...]) -> Array:
    return array.transpose(order) if array.ndim else array


def _collapse(shape: Shape, shapes: Sequence[Shape]) -> list[int]:
    """Split the axes into groups, each the number of its axes, in which every operand is either full or 1."""
    padded = [(1,) * (len(shape) - len(s)) + s for s in shapes]
    pattern = [tuple(s[i] == shape[i] for s in padded) for i in range(len(shape))]
    groups: list[int] = []
    last: tuple[bool, ...] | None = None
    for i, broadcasts in enumerate(pattern):
        if (shape[i] == 1 and groups) or broadcasts == last:
            groups[-1] += 1
        else:
            groups.append(1)
            last = broadcasts if shape[i] != 1 else None
    return groups


def _grouped(own: Shape, shape: Shape, groups: list[int]) -> Shape:
    """An operand's extents with one axis a group: four in all, or one."""
    padded = (1,) * (len(shape) - len(own)) + own
    extents: list[int] = []
    at = 0
    for n in groups:
        extents.append(product(padded[at : at + n]))
        at += n
    return (1,) * ((4 if len(groups) > 1 else 1) - len(groups)) + tuple(extents)


def _expanded(x: Tensor, shape: Shape) -> Array:
    out = x.device.empty(shape, x.dtype)
    launch(x.device.kernels.copy, np.broadcast_to(x.array, shape, subok=True), out)
    return out


def unbroadcast_axes(shape: Shape, to: Shape) -> tuple[int, ...]:
    """The axes to sum over so that a gradient of ``shape`` becomes one of ``to`` (extents of 1 kept)."""
    lead = len(shape) - len(to)
    return tuple(range(lead)) + tuple(lead + i for i, n in enumerate(to) if n == 1 and shape[lead + i] != 1)


def dense_like(x: Tensor) -> Any:
    """Return an uninitialised array of the tensor's shape, in its order of axes where that is dense."""
    order = _common_order([x], x.array.shape)
    if order is None or x.contiguous_array:
        return x.device.empty(x.array.shape, x.dtype)
    return x.device.empty(tuple(x.array.shape[i] for i in order), x.dtype).transpose(np.argsort(order))
