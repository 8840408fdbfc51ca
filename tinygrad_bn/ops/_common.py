"""What every op does first and last: check its arguments, bring arrays into the form that kernels take, allocate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_bn.core import dtype as dtypes
from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.tensor import Array, Tensor, wrap
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, ShapeError, wrong

Scalar = bool | int | float
_constants: dict[tuple[Any, ...], Tensor] = {}
_tables: dict[tuple[Any, ...], Array] = {}  # on the GPU


def is_tensor(op: str, name: str, value: object) -> Tensor:
    """Return the value if it is a Tensor, else raise."""
    if not isinstance(value, Tensor):
        hint = "convert it with tb.tensor(…) or tb.from_numpy(…)" if isinstance(value, np.ndarray | list) else None
        raise DTypeError(wrong(op, name, "a Tensor", type(value).__name__, hint))
    return value


def is_floating(op: str, name: str, value: object) -> Tensor:
    """Return the value if it is a floating-point Tensor, else raise."""
    if isinstance(value, Tensor) and value.dtype.is_floating_point:
        return value
    given = is_tensor(op, name, value).dtype.name
    raise DTypeError(wrong(op, name, "a floating-point tensor", given, "convert it with .float() or .to(dtype)"))


def same_device(op: str, first: Tensor, name: str, other: Tensor) -> None:
    """Raise if two tensors live on different devices."""
    if other.device is not first.device:
        raise DeviceError(wrong(op, name, f"on device {first.device}, as the first argument is", str(other.device)))


def plain(x: Tensor) -> Array:
    """Return the elements as a C-contiguous array, copied by a kernel where they are not."""
    if x.contiguous_array:
        return x.array
    out = x.device.empty(x.array.shape, x.dtype)
    launch(x.device.kernels.copy, x.array, out)
    return out


def raw(array: Array, dtype: DType) -> Array:
    """Return an array as kernels that only move elements take it: words, where it is of low precision."""
    return dtypes.words(array) if dtype.low else array


def new(shape: tuple[int, ...], dtype: DType, device: Device) -> Tensor:
    """Return an uninitialised tensor."""
    return Tensor(device.empty(shape, dtype), dtype, device)


def constant(value: Scalar, dtype: DType, device: Device) -> Tensor:
    """Return a number as a tensor without axes; shared, never to be changed."""
    key = (value or repr(value), value.__class__, dtype.name, device.type)  # 0.0 equals -0.0
    found = _constants.get(key)
    if found is None:
        if len(_constants) > 4096:
            _constants.clear()
        array = np.empty((), dtype.storage)
        try:
            array[()] = dtypes.stored(value, dtype) if dtype.low else value
        except OverflowError:
            raise DTypeError(f"a Python number must fit the tensor's dtype {dtype.name}. Got {value!r}.") from None
        found = _constants[key] = Tensor(device.kept(array), dtype, device)
    return found


def table(host: Array, device: Device) -> Array:
    """Return a small array of the host's as kernels of a device take it: kept there, never to be changed."""
    if device.type != "cuda":
        return host
    key = (host.shape, host.dtype.char, host.tobytes())
    found = _tables.get(key)
    if found is None:
        if len(_tables) > 4096:
            device.synchronize()
            _tables.clear()
        found = _tables[key] = device.kept(host)
    return found


def number(x: Tensor) -> Any:
    """Return a tensor's one element as a Python number: the host waits for it. Not of bfloat16."""
    return x.device.to_host(x.array).item()


def cast(x: Tensor, dtype: DType) -> Tensor:
    """Return the elements converted, off the tape; the tensor itself where there is nothing to convert."""
    if x.dtype is dtype:
        return x
    if dtype.low:
        return _narrowed(x if x.dtype is dtypes.float32 else cast(x, dtypes.float32), dtype)
    if x.dtype.low:
        return cast(_widened(x), dtype)
    out = new(x.array.shape, dtype, x.device)
    launch(x.device.kernels.copy, x.array, out.array)
    return out


def _widened(x: Tensor) -> Tensor:
    """The elements of a low-precision tensor in float32."""
    out = new(x.array.shape, dtypes.float32, x.device)
    source = dtypes.words(plain(x)).reshape(-1)
    launch(x.device.kernels.widen, source, x.dtype.kind, out.array.reshape(-1))
    return out


def _narrowed(x: Tensor, dtype: DType) -> Tensor:
    """The elements of a float32 tensor rounded to low precision, to nearest, ties to even."""
    out = new(x.array.shape, dtype, x.device)
    launch(x.device.kernels.narrow, plain(x).reshape(-1), dtype.kind, dtypes.words(out.array).reshape(-1))
    return out


def operand(op: str, name: str, value: object, like: Tensor) -> Tensor:
    """Return a second operand as a tensor: a number takes the first one's dtype unless it changes the kind."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bool | int | float):
        return constant(value, dtypes.promote_scalar(like.dtype, value), like.device)
    if isinstance(value, np.generic):
        return constant(value.item(), dtypes.promote_scalar(like.dtype, value.item()), like.device)
    if isinstance(value, np.ndarray):
        found = wrap(value, like.device, op)
        return cast(found, dtypes.float32) if found.dtype.low else found
    raise DTypeError(wrong(op, name, "a Tensor or a number", type(value).__name__))


def result_type(a: Tensor, b: Tensor) -> DType:
    """Return the dtype of an operation on two tensors; one without axes does not widen one with axes of its kind."""
    x, y = a.dtype, b.dtype
    if x is y:
        return x
    if (a.array.ndim == 0) != (b.array.ndim == 0):
        whole, number = (x, y) if b.array.ndim == 0 else (y, x)
        if _kind(number) <= _kind(whole):
            return whole
    return dtypes.promote(x, y)


def _kind(d: DType) -> int:
    return 2 if d.is_floating_point else (0 if d is dtypes.bool_ else 1)


def axis(op: str, dim: Any, ndim: int, name: str = "dim") -> int:
    """Return an axis as a number from 0; a tensor without axes counts as having one."""
    extent = max(ndim, 1)
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer):
        raise ArgumentError(wrong(op, name, "an int", type(dim).__name__))
    if not -extent <= dim < extent:
        raise ShapeError(wrong(op, name, f"from {-extent} to {extent - 1}", int(dim)))
    return int(dim) % extent


def axes(op: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """Return axes as sorted numbers from 0; None and () stand for all."""
    if dim is None or (isinstance(dim, tuple | list) and not dim):
        return tuple(range(ndim))
    given = dim if isinstance(dim, tuple | list) else (dim,)
    found = sorted(axis(op, d, ndim) for d in given)
    if len(set(found)) != len(found):
        raise ArgumentError(wrong(op, "dim", "free of repeated axes", tuple(given)))
    return tuple(found) if ndim else ()


def as_shape(op: str, size: Sequence[Any], name: str = "size") -> tuple[int, ...]:
    """Return a shape given as ints or as one sequence of ints."""
    if len(size) == 1 and isinstance(size[0], tuple | list):
        size = size[0]
    for extent in size:
        if isinstance(extent, bool) or not isinstance(extent, int | np.integer):
            raise ArgumentError(wrong(op, name, "ints", f"{type(extent).__name__} {extent!r}"))
    return tuple(int(extent) for extent in size)
