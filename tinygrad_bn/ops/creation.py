"""Making tensors: from data, from numbers, and like others. Names and arguments are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_bn.core.device import as_device
from tinygrad_bn.core.dtype import DType, as_dtype, float32, get_default_dtype, int64, numbers, stored
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.tensor import Tensor, set_requires_grad, wrap
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, wrong
from tinygrad_bn.ops._common import as_shape, cast, is_tensor, new
from tinygrad_bn.ops.movement import to

Shape = tuple[int, ...]


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor that holds a copy of the data.

    Parameters
    ----------
    data : number, nested sequence of numbers, array or Tensor
    dtype : DType, optional
        Default: the data's; Python floats take the default dtype.
    device : Device or str, optional
    requires_grad : bool

    Raises
    ------
    DTypeError, ShapeError
        If the data is no rectangular array of numbers.
    """
    out = _copied(data, dtype, device)
    if requires_grad:
        set_requires_grad(out, True)
    return out


def _copied(data: Any, dtype: Any, device: Any) -> Tensor:
    wanted = None if dtype is None else as_dtype(dtype, "tensor")
    if not isinstance(data, Tensor) and hasattr(data, "__cuda_array_interface__"):
        data = _on_gpu(data, "tensor")
    if isinstance(data, Tensor) and device is None and data.device.type == "cuda":
        device = data.device
    place = as_device(device, "tensor")
    if isinstance(data, Tensor) and (data.dtype.low or "cuda" in (data.device.type, place.type)):
        return to(data.alias(), dtype=wanted, device=place, copy=True)
    source = wrap(_numbers(data, wanted is not None), place)
    if wanted is not None and wanted is not source.dtype and (wanted.low or source.dtype.low):
        return cast(source, wanted)
    out = new(source.array.shape, wanted or source.dtype, place)
    launch(place.kernels.copy, source.array, out.array)
    return out


def _numbers(data: Any, exact: bool) -> np.ndarray[Any, Any]:
    """The data as an array; Python floats in the default dtype unless they are to be kept exact, ints in int64."""
    if isinstance(data, Tensor):
        return numbers(data.device.to_host(data.array), data.dtype)
    if isinstance(data, np.ndarray | np.generic):
        return np.asarray(data)
    if isinstance(data, list | tuple) and any(isinstance(d, Tensor | np.ndarray) for d in data):
        data = [_numbers(d, exact) for d in data]
    try:
        array = np.asarray(data)
    except ValueError:
        raise ShapeError("tensor: 'data' must be rectangular: rows of one length. Got rows of several.") from None
    if array.dtype == np.float64 and not exact and not _holds_arrays(data):
        return array.astype(get_default_dtype().storage)
    if array.dtype.kind not in "biuf":
        raise DTypeError(wrong("tensor", "data", "numbers or booleans", f"elements of type {array.dtype}"))
    if array.size == 0 and not _holds_arrays(data):
        return array.astype(get_default_dtype().storage)
    return array


def _holds_arrays(data: Any) -> bool:
    while isinstance(data, list | tuple) and len(data):
        data = data[0]
    return isinstance(data, np.ndarray | np.generic) or hasattr(data, "__array__")


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """Return a tensor that shares the array's memory. A read-only or misaligned array is copied.

    Writes through the array are not seen by the tape: it cannot tell that a saved tensor was changed that way.
    """
    if not isinstance(array, np.ndarray):
        raise DTypeError(wrong("from_numpy", "array", "a numpy.ndarray", type(array).__name__))
    return wrap(array, op="from_numpy")


def from_dlpack(data: Any) -> Tensor:
    """Return a tensor that shares the memory of another library's, on the CPU or the GPU, through DLPack.

    On the GPU the current stream waits for what computes the data; one that may not be written to is copied.

    Raises
    ------
    DeviceError
        If the data is elsewhere, or there is no GPU.
    DTypeError
        If its elements have no dtype here.
    """
    found = getattr(data, "__dlpack_device__", None)
    if found is None:
        raise DTypeError(wrong("from_dlpack", "data", "an object with __dlpack__", type(data).__name__))
    kind, number = map(int, found())
    if kind not in (2, 13):  # CUDA's memory, or its managed memory
        return wrap(np.from_dlpack(data), op="from_dlpack")
    as_device(f"cuda:{number}", "from_dlpack")
    from tinygrad_bn.core import exchange

    return exchange.from_dlpack(data)


def _on_gpu(data: Any, op: str) -> Tensor:
    """Another library's array on the GPU, shared."""
    as_device("cuda", op)
    from tinygrad_bn.core import exchange

    return exchange.from_interface(data, op)


def as_tensor(data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Return the data as a tensor, sharing memory where it can; GPU arrays by ``__cuda_array_interface__``."""
    if not isinstance(data, Tensor) and hasattr(data, "__cuda_array_interface__"):
        data = _on_gpu(data, "as_tensor")
    if isinstance(data, Tensor):
        return to(data, dtype=dtype, device=device)
    if isinstance(data, np.ndarray):
        return to(wrap(data, op="as_tensor"), dtype=dtype, device=device)
    return tensor(data, dtype=dtype, device=device)


def _filled(op: str, shape: Shape, value: Any, dtype: DType, device: Any, requires_grad: bool) -> Tensor:
    if any(n < 0 for n in shape):
        raise ShapeError(wrong(op, "size", "extents of at least 0", shape))
    out = new(shape, dtype, as_device(device, op))
    if value is not None:
        launch(out.device.kernels.fill, stored(value, dtype) if dtype.low else value, out.array)
    if requires_grad:
        set_requires_grad(out, True)
    return out


def _maker(op: str, value: Any, what: str) -> Callable[..., Tensor]:
    def make(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        wanted = get_default_dtype() if dtype is None else as_dtype(dtype, op)
        return _filled(op, as_shape(op, size), value, wanted, device, requires_grad)

    make.__name__ = make.__qualname__ = op
    make.__doc__ = f"""Return a tensor {what}.

    Parameters
    ----------
    *size : int or one sequence of int
    dtype : DType, optional
        Default: the default floating-point type.
    device : Device or str, optional
    requires_grad : bool
    """
    return make


def _liker(op: str, value: Any, what: str) -> Callable[..., Tensor]:
    def make(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        x = is_tensor(op, "input", input)
        wanted = x.dtype if dtype is None else as_dtype(dtype, op)
        return _filled(op, x.array.shape, value, wanted, x.device if device is None else device, requires_grad)

    make.__name__ = make.__qualname__ = op
    make.__doc__ = f"""Return a tensor {what}, of the input's shape, dtype and device unless others are given."""
    return make


zeros = _maker("zeros", 0, "of zeros")
ones = _maker("ones", 1, "of ones")
empty = _maker("empty", None, "whose elements are not set")
zeros_like = _liker("zeros_like", 0, "of zeros")
ones_like = _liker("ones_like", 1, "of ones")
empty_like = _liker("empty_like", None, "whose elements are not set")


def full(
    size: Any, fill_value: bool | int | float, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor of one number; its dtype is the number's unless given."""
    wanted = as_dtype(type(fill_value) if dtype is None else dtype, "full")
    shape = as_shape("full", size if isinstance(size, tuple | list) else (size,))
    return _filled("full", shape, fill_value, wanted, device, requires_grad)


def full_like(
    input: Tensor, fill_value: bool | int | float, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor of one number, of the input's shape, dtype and device unless others are given."""
    x = is_tensor("full_like", "input", input)
    wanted = x.dtype if dtype is None else as_dtype(dtype, "full_like")
    place = x.device if device is None else device
    return _filled("full_like", x.array.shape, fill_value, wanted, place, requires_grad)


def arange(
    start: int | float,
    end: int | float | None = None,
    step: int | float = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return start, start + step, … below end; ``arange(end)`` starts at 0. Ints give int64.

    Raises
    ------
    ArgumentError
        If step is 0 or leads away from end.
    """
    if end is None:
        start, end = 0, start
    if step == 0 or (end - start) / step < 0:
        raise ArgumentError(wrong("arange", "step", f"not 0 and lead from {start} to {end}", step))
    whole = all(isinstance(v, int) for v in (start, end, step))
    wanted = (int64 if whole else get_default_dtype()) if dtype is None else as_dtype(dtype, "arange")
    count = -((start - end) // step) if whole else int(np.ceil((end - start) / step))
    out = _filled("arange", (int(count),), None, float32 if wanted.low else wanted, device, False)
    launch(out.device.kernels.arange, start, step, out.array)
    out = cast(out, wanted)
    if requires_grad:
        set_requires_grad(out, True)
    return out


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return ``steps`` numbers from start to end, both included."""
    if steps < 0:
        raise ArgumentError(wrong("linspace", "steps", "at least 0", steps))
    wanted = get_default_dtype() if dtype is None else as_dtype(dtype, "linspace")
    out = _filled("linspace", (steps,), None, float32 if wanted.low else wanted, device, False)
    launch(out.device.kernels.linspace, float(start), float(end), out.array)
    out = cast(out, wanted)
    if requires_grad:
        set_requires_grad(out, True)
    return out


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a matrix of shape (n, m), by default square, with ones on its diagonal and zeros elsewhere."""
    wanted = get_default_dtype() if dtype is None else as_dtype(dtype, "eye")
    out = _filled("eye", (n, n if m is None else m), 0, wanted, device, False)
    columns = out.array.shape[1]
    diagonal = out.array.reshape(-1)[: min(out.array.shape) * columns : columns + 1]
    launch(out.device.kernels.fill, stored(1, wanted) if wanted.low else 1, diagonal)
    if requires_grad:
        set_requires_grad(out, True)
    return out
