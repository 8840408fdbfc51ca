"""Joining tensors along an axis, and cutting stretches out of one: each the other's gradient."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected
from tinygrad_bn.ops._common import axis, is_tensor, new, same_device
from tinygrad_bn.ops._layout import Shape
from tinygrad_bn.ops.movement import reshape


class Cat(Node):
    """Pieces one after another along an axis."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        dim, extents = self.constants
        grads: list[Tensor | None] = []
        start = 0
        for target, n in zip(self.inputs, extents, strict=True):
            grads.append(None if target is None else narrow(gy, dim, start, n))
            start += n
        return grads


@operation(Cat)
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors along an existing axis.

    Parameters
    ----------
    tensors : sequence of Tensor
        Of one dtype and device; shapes equal but for ``dim``.

    Raises
    ------
    ShapeError, DTypeError, ArgumentError
    """
    given = [is_tensor("cat", "tensors", t) for t in tensors]
    if not given:
        raise ArgumentError("cat: 'tensors' must hold at least one tensor. Got none.")
    first = given[0]
    d = axis("cat", dim, first.array.ndim)
    shape = first.array.shape
    if not shape:
        raise ShapeError("cat: 'tensors' must have at least one axis. Got a tensor without axes.\nHint: use stack().")
    for i, t in enumerate(given[1:], 1):
        same_device("cat", first, f"tensors[{i}]", t)
        if t.dtype is not first.dtype:
            raise DTypeError(expected("cat", f"tensors[{i}]", f"dtype {first.dtype.name}, as the first", t.dtype.name))
        if t.array.ndim != len(shape) or t.array.shape[:d] + t.array.shape[d + 1 :] != shape[:d] + shape[d + 1 :]:
            want = f"the first one's shape {shape} but for axis {d}"
            raise ShapeError(expected("cat", f"tensors[{i}]", want, t.array.shape))
    extents = tuple(t.array.shape[d] for t in given)
    out = new((*shape[:d], sum(extents), *shape[d + 1 :]), first.dtype, first.device)
    start = 0
    for t, n in zip(given, extents, strict=True):
        piece = out.array[(slice(None),) * d + (slice(start, start + n),)]
        launch(first.device.kernels.copy, t.array, piece)
        start += n
    return record(Cat, out, tuple(given), constants=(d, extents))


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    given = [is_tensor("stack", "tensors", t) for t in tensors]
    if not given:
        raise ArgumentError("stack: 'tensors' must hold at least one tensor. Got none.")
    shape = given[0].array.shape
    for i, t in enumerate(given):
        if t.array.shape != shape:
            raise ShapeError(expected("stack", f"tensors[{i}]", f"the first one's shape {shape}", t.array.shape))
    d = axis("stack", dim, len(shape) + 1)
    return cat([reshape(t, (*shape[:d], 1, *shape[d:])) for t in given], d)


class Narrow(Node):
    """A stretch of an axis."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        shape, dim, start = self.constants
        return (widen(gy, shape, dim, start),)


@operation(Narrow)
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """Return a view of ``length`` elements from ``start`` along an axis.

    Raises
    ------
    ShapeError
        If the stretch does not lie within the axis.
    """
    x = is_tensor("narrow", "input", input)
    d = axis("narrow", dim, x.array.ndim)
    n = x.array.shape[d] if x.array.ndim else 0
    first = start + n if start < 0 else start
    if not (0 <= first <= n and 0 <= length <= n - first):
        raise ShapeError(f"narrow: 'start' and 'length' must lie within the axis of {n}. Got {start} and {length}.")
    view = x.array[(slice(None),) * d + (slice(first, first + length),)]
    return record(Narrow, x.alias(view), (x,), constants=(x.array.shape, d, first))


class Widen(Node):
    """Zeros around a stretch of an axis."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        dim, start, length = self.constants
        return (narrow(gy, dim, start, length),)


@operation(Widen)
def widen(input: Tensor, shape: Shape, dim: int, start: int) -> Tensor:
    """Return zeros of ``shape`` with the input put in from ``start`` along an axis: the gradient of narrow."""
    x = is_tensor("widen", "input", input)
    out = new(shape, x.dtype, x.device)
    launch(x.device.kernels.fill, 0, out.array)
    n = x.array.shape[dim]
    launch(x.device.kernels.copy, x.array, out.array[(slice(None),) * dim + (slice(start, start + n),)])
    return record(Widen, out, (x,), constants=(dim, start, n))
