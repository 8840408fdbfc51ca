"""Conversions, copies and views. A view shares memory with what it is a view of; the gradient of each is another of
them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_bn.core.device import Device, as_device
from tinygrad_bn.core.dtype import as_dtype
from tinygrad_bn.core.launch import launch, reads_values
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DeviceError, ShapeError, expected, wrong
from tinygrad_bn.ops._broadcast import dense_like
from tinygrad_bn.ops._common import as_shape, axes, axis, cast, is_tensor, new, plain
from tinygrad_bn.ops._layout import product

Shape = tuple[int, ...]


class Cast(Node):
    """y = x in another dtype."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (to(gy, self.constants[0]),)


class Transfer(Node):
    """y = x on another device."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (to(gy, self.constants[0]),)


@operation(Cast, Transfer)
def to(input: Tensor, *target: Any, dtype: Any = None, device: Any = None, copy: bool = False) -> Tensor:
    """Return the tensor in another dtype, on another device, or both; itself where it is so already.

    Parameters
    ----------
    *target : DType, Device, str or Tensor
        A dtype, a device, or a tensor whose dtype and device are taken.
    copy : bool
        Copy in any case.
    """
    x = is_tensor("to", "input", input)
    for t in target:
        if isinstance(t, Tensor):
            dtype, device = t.dtype, t.device
        elif isinstance(t, Device) or (isinstance(t, str) and t.partition(":")[0] in ("cpu", "ref", "cuda")):
            device = t
        elif not isinstance(t, bool):
            dtype = t
    wanted = x.dtype if dtype is None else as_dtype(dtype, "to")
    place = x.device if device is None else as_device(device, "to")
    out = x
    if wanted is not x.dtype:
        out = record(Cast, cast(x, wanted), (x,), constants=(x.dtype,)) if wanted.is_floating_point else cast(x, wanted)
    if place is not x.device:
        out = record(Transfer, _moved(out, place), (out,), constants=(x.device,))
    return clone(x) if copy and out is x else out


def _moved(x: Tensor, place: Device) -> Tensor:
    """The elements on another device."""
    if x.device.type == "cuda":
        reads_values("to")
        return Tensor(place.array(x.device.to_host(plain(x))), x.dtype, place)
    if place.type == "cuda":
        reads_values("to")
        return Tensor(place.array(plain(x)), x.dtype, place)
    moved = new(x.array.shape, x.dtype, place)
    launch(place.kernels.copy, x.array, moved.array)
    return moved


class Clone(Node):
    """y = x."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (gy,)


@operation(Clone)
def clone(input: Tensor) -> Tensor:
    """Return a copy, on the tape; a dense layout is kept."""
    x = is_tensor("clone", "input", input)
    array = dense_like(x)
    launch(x.device.kernels.copy, x.array, array)
    out = Tensor(array, x.dtype, x.device)
    out.contiguous_array = bool(array.flags.c_contiguous)
    return record(Clone, out, (x,))


@operation(Clone, name="contiguous")
def contiguous(input: Tensor) -> Tensor:
    """Return the tensor itself if it lies in memory in the order of its axes, else a copy that does."""
    x = is_tensor("contiguous", "input", input)
    if x.contiguous_array:
        return x
    return record(Clone, Tensor(plain(x), x.dtype, x.device), (x,))


class Reshape(Node):
    """The same elements in another shape."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (reshape(gy, self.constants[0]),)


@operation(Reshape)
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """Return the elements in another shape; a view where strides allow, else a copy.

    Parameters
    ----------
    *shape : int or one sequence of int
        One extent may be -1 and is worked out.

    Raises
    ------
    ShapeError
        If the number of elements differs.
    """
    x = is_tensor("reshape", "input", input)
    wanted = _resolve(x, as_shape("reshape", shape, "shape"))
    if wanted == x.array.shape:
        return record(Reshape, x.alias(x.array), (x,), constants=(wanted,))
    if x.contiguous_array:
        out = x.alias(x.array.reshape(wanted))
    else:
        view = _view(x.array, wanted)
        out = Tensor(plain(x).reshape(wanted), x.dtype, x.device) if view is None else x.alias(view)
    return record(Reshape, out, (x,), constants=(x.array.shape,))


def _resolve(x: Tensor, shape: Shape) -> Shape:
    size = x.array.size
    if shape.count(-1) > 1 or any(n < -1 for n in shape):
        raise ShapeError(wrong("reshape", "shape", "extents of at least 0, at most one of them -1", shape))
    if -1 in shape:
        rest = 1
        for n in shape:
            rest *= n if n != -1 else 1
        if rest and size % rest == 0:
            shape = tuple(size // rest if n == -1 else n for n in shape)
    count = 1
    for n in shape:
        count *= n
    if count != size or -1 in shape:
        raise ShapeError(expected("reshape", "shape", f"{size} elements, as shape {x.array.shape} has", shape))
    return shape


def _view(array: Any, shape: Shape) -> Any:
    """The array in another shape without a copy, or None."""
    try:
        return array.reshape(shape, copy=False)
    except (ValueError, DeviceError):  # DeviceError: of the GPU's arrays
        return None


class Permute(Node):
    """The axes in another order."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (permute(gy, self.constants[0]),)


@operation(Permute)
def permute(input: Tensor, *dims: Any) -> Tensor:
    """Return a view with its axes in the given order.

    Raises
    ------
    ArgumentError
        If ``dims`` is not a permutation of the axes.
    """
    x = is_tensor("permute", "input", input)
    order = as_shape("permute", dims, "dims")
    found = tuple(axis("permute", d, x.array.ndim, "dims") for d in order)
    if sorted(found) != list(range(x.array.ndim)):
        raise ArgumentError(wrong("permute", "dims", f"a permutation of the {x.array.ndim} axes", order))
    inverse = tuple(sorted(range(len(found)), key=found.__getitem__))
    return record(Permute, x.alias(x.array.transpose(found)), (x,), constants=(inverse,))


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Return a view with two axes exchanged."""
    x = is_tensor("transpose", "input", input)
    i, j = axis("transpose", dim0, x.array.ndim, "dim0"), axis("transpose", dim1, x.array.ndim, "dim1")
    order = list(range(x.array.ndim))
    if order:
        order[i], order[j] = order[j], order[i]
    return permute(x, order)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Return the tensor with the axes from start_dim to end_dim taken as one."""
    x = is_tensor("flatten", "input", input)
    if not x.array.ndim:
        return reshape(x, (1,))
    first, last = (
        axis("flatten", start_dim, x.array.ndim, "start_dim"),
        axis("flatten", end_dim, x.array.ndim, "end_dim"),
    )
    if first > last:
        raise ArgumentError(wrong("flatten", "start_dim", "no later than 'end_dim'", (start_dim, end_dim)))
    shape = x.array.shape
    return reshape(x, (*shape[:first], product(shape[first : last + 1]), *shape[last + 1 :]))


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Return the tensor with one axis taken as several; one of their extents may be -1.

    Raises
    ------
    ShapeError
        If the extents do not multiply to the axis's.
    """
    x = is_tensor("unflatten", "input", input)
    shape = x.array.shape
    d = axis("unflatten", dim, len(shape))
    parts = as_shape("unflatten", tuple(sizes), "sizes")
    n, rest = shape[d] if shape else 1, product(tuple(k for k in parts if k != -1))
    if parts.count(-1) == 1 and rest and n % rest == 0:
        parts = tuple(n // rest if k == -1 else k for k in parts)
    if not parts or product(parts) != n or min(parts) < 0:
        raise ShapeError(expected("unflatten", "sizes", f"extents whose product is {n}, at most one -1", tuple(sizes)))
    return reshape(x, (*shape[:d], *parts, *shape[d + 1 :]))


def squeeze(input: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Return the tensor without its axes of extent 1, or without those of some axes that have it."""
    x = is_tensor("squeeze", "input", input)
    shape = x.array.shape
    if dim is None:
        return reshape(x, tuple(n for n in shape if n != 1))
    if isinstance(dim, tuple | list) and not dim:
        return x
    dropped = [d for d in axes("squeeze", dim, len(shape)) if shape[d] == 1]
    return reshape(x, tuple(n for i, n in enumerate(shape) if i not in dropped)) if dropped else x


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Return the tensor with a new axis of extent 1."""
    x = is_tensor("unsqueeze", "input", input)
    d = axis("unsqueeze", dim, x.array.ndim + 1)
    return reshape(x, (*x.array.shape[:d], 1, *x.array.shape[d:]))
