"""Joining tensors along an axis, and cutting stretches out of one: each the other's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from tinygrad_bn.core.dtype import promote
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.mixed import gate
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, MultiNode, Node, nodes_of, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.ops._common import axis, is_tensor, new, same_device
from tinygrad_bn.ops._layout import Shape
from tinygrad_bn.ops.creation import zeros
from tinygrad_bn.ops.movement import clone, reshape, to


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
        Of one dtype and device, or of several floating-point dtypes of which some are low precision; shapes equal but
        for ``dim``.

    Raises
    ------
    ShapeError, DTypeError, ArgumentError
    """
    given = [is_tensor("cat", "tensors", t) for t in tensors]
    if not given:
        raise ArgumentError("cat: 'tensors' must hold at least one tensor. Got none.")
    first = given[0]
    if gate.on and any(t.dtype.low for t in given) and all(t.dtype.is_floating_point for t in given):
        common = reduce(promote, [t.dtype for t in given])
        given = [to(t, common) for t in given]
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


class Split(MultiNode):
    """Stretches that together are the whole axis; the gradients are joined, zeros for those that are missing."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        _, shape, dim, extents = self.constants
        like = next(g for g in gradients if g is not None)
        return (
            cat(
                [
                    zeros((*shape[:dim], n, *shape[dim + 1 :]), dtype=like.dtype, device=like.device)
                    if g is None
                    else g
                    for g, n in zip(gradients, extents, strict=True)
                ],
                dim,
            ),
        )


@operation(Split, name="split")
def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Return views of stretches of an axis, one after another.

    Parameters
    ----------
    tensor : Tensor, of at least one axis
    split_size_or_sections : int or sequence of int
        The extent of every stretch, the last being shorter where it does not divide the axis's; or all extents.
    dim : int

    Raises
    ------
    ShapeError
        If the extents do not add up to the axis's.
    """
    x = is_tensor("split", "tensor", tensor)
    if not x.array.ndim:
        raise ShapeError(expected("split", "tensor", "at least one axis", "a tensor without axes"))
    d = axis("split", dim, x.array.ndim)
    extents = _extents(split_size_or_sections, x.array.shape[d])
    pieces = []
    start = 0
    for n in extents:
        pieces.append(x.alias(x.array[(slice(None),) * d + (slice(start, start + n),)]))
        start += n
    nodes = nodes_of(Split, x)
    if nodes is not None:
        Split(nodes, (), (len(pieces), x.array.shape, d, extents)).attach(pieces)
    return tuple(pieces)


def _extents(sections: int | Sequence[int], whole: int) -> tuple[int, ...]:
    """The extents of all stretches of an axis."""
    name = "split_size_or_sections"
    if isinstance(sections, tuple | list):
        extents = tuple(int(n) for n in sections)
        if sum(extents) != whole or min(extents, default=0) < 0:
            raise ShapeError(expected("split", name, f"extents that add up to {whole}", extents))
        return extents
    if isinstance(sections, bool) or not isinstance(sections, int):
        raise ArgumentError(wrong("split", name, "an int or a sequence of ints", type(sections).__name__))
    if sections < 1 and not sections == whole == 0:
        raise ArgumentError(wrong("split", name, "at least 1", sections))
    return tuple(min(sections, whole - start) for start in range(0, whole, sections)) if whole else (0,)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Return views of at most ``chunks`` stretches of an axis, all of one extent but the last, which may be shorter."""
    x = is_tensor("chunk", "input", input)
    if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
        raise ArgumentError(wrong("chunk", "chunks", "an int of at least 1", repr(chunks)))
    if not x.array.ndim:
        raise ShapeError(expected("chunk", "input", "at least one axis", "a tensor without axes"))
    n = x.array.shape[axis("chunk", dim, x.array.ndim)]
    return split(x, -(-n // chunks), dim) if n else split(x, (0,) * chunks, dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Return views of all slices along an axis, which they lack."""
    x = is_tensor("unbind", "input", input)
    if not x.array.ndim:
        raise ShapeError(expected("unbind", "input", "at least one axis", "a tensor without axes"))
    d = axis("unbind", dim, x.array.ndim)
    shape = x.array.shape
    return tuple(reshape(t, (*shape[:d], *shape[d + 1 :])) for t in split(x, (1,) * shape[d], d))


def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """Return the elements shifted along axes; those that are shifted out at the end come in at the beginning.

    Parameters
    ----------
    shifts : int or sequence of int
        By how much, one number an axis.
    dims : int or sequence of int, optional
        None shifts the flattened tensor and gives it back its shape.
    """
    x = is_tensor("roll", "input", input)
    by = tuple(shifts) if isinstance(shifts, tuple | list) else (shifts,)
    if dims is None:
        if len(by) != 1:
            raise ArgumentError(expected("roll", "dims", f"one axis a shift, {len(by)}", None))
        return reshape(roll(reshape(x, (x.array.size,)), by, (0,)), x.array.shape)
    along = tuple(dims) if isinstance(dims, tuple | list) else (dims,)
    if len(along) != len(by):
        raise ArgumentError(expected("roll", "dims", f"one axis a shift, {len(by)}", len(along)))
    for shift, dim in zip(by, along, strict=True):
        d = axis("roll", dim, x.array.ndim)
        n = x.array.shape[d]
        if n and shift % n:
            head, tail = split(x, (n - shift % n, shift % n), d)
            x = cat([tail, head], d)
    return clone(x) if x is input else x
