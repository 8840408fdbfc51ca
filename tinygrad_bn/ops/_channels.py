"""Bring an input (N, C, …) into the form (N, C, L) in which kernels normalise channels, as it lies in memory."""

from __future__ import annotations

import threading

from tinygrad_bn.core.dtype import DType, float32, float64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.tensor import Array, Tensor, is_plain
from tinygrad_bn.errors import DeviceError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.ops._common import is_floating, is_tensor, plain
from tinygrad_bn.ops._layout import product


def parts_of(channels: int, samples: int, length: int) -> int:
    """Into how many parts the batch is cut where there are few channels: fixed by the shape, whatever the threads."""
    tasks = channels if length > 1 else -(-channels // 16)
    size = samples * length * channels
    if tasks >= 8 or size < 1 << 15:
        return 1
    return max(1, min(samples, 8 // tasks, size >> 14))


def lay_out(x: Tensor) -> tuple[Array, bool]:
    """The elements as (N, C, L) in C order, and whether they lay with the channels innermost (then L is 1)."""
    array = x.array
    shape = array.shape
    if x.contiguous_array:
        return array.reshape((shape[0], shape[1], product(shape[2:]) if len(shape) > 2 else 1)), False
    last = array.transpose((0, *range(2, len(shape)), 1))
    if len(shape) > 2 and is_plain(last):
        return last.reshape(product(last.shape[:-1]), shape[1], 1), True
    return plain(x).reshape(shape[0], shape[1], product(shape[2:])), False


def in_layout(x: Tensor, innermost: bool) -> Array:
    """The elements of a second tensor of the same shape, brought into a layout."""
    view, own = lay_out(x)
    if own == innermost:
        return view
    shape = x.array.shape
    if not innermost:
        return plain(x).reshape(shape[0], shape[1], product(shape[2:]))
    order = (0, *range(2, len(shape)), 1)
    out = x.device.empty(tuple(shape[i] for i in order), x.dtype)
    launch(x.device.kernels.copy, x.array.transpose(order), out)
    return out.reshape(product(out.shape[:-1]), shape[1], 1)


def paired(x: Tensor) -> tuple[Array, Tensor, Array, bool]:
    """The elements as kernels take them, an uninitialised tensor of the same layout with its own view, and whether the
    channels lie innermost: ``lay_out`` and ``empty_as`` at once."""
    array, dtype, device = x.array, x.dtype, x.device
    if not x.contiguous_array:
        view, innermost = lay_out(x)
        y, out = empty_as(x, view, innermost)
        return view, y, out, innermost
    shape = array.shape
    seen = (shape[0], shape[1], 1) if len(shape) == 2 else (shape[0], shape[1], product(shape[2:]))
    out = device.empty(shape, dtype)
    return array.reshape(seen), Tensor(out, dtype, device), out.reshape(seen), False


def empty_as(x: Tensor, view: Array, innermost: bool) -> tuple[Tensor, Array]:
    """An uninitialised tensor of the input's shape, stored in the layout of a view of it, and its view."""
    shape = x.array.shape
    if not innermost:
        array = x.device.empty(shape, x.dtype)
        return Tensor(array, x.dtype, x.device), array.reshape(view.shape)
    stored = x.device.empty((shape[0], *shape[2:], shape[1]), x.dtype)
    out = Tensor(stored.transpose((0, len(shape) - 1, *range(1, len(shape) - 1))), x.dtype, x.device)
    out.contiguous_array = is_plain(out.array)
    return out, stored.reshape(view.shape)


def check(x: Tensor, *named: tuple[str, Tensor | None]) -> None:
    op = "batch_norm"
    is_floating(op, "input", x)
    if x.array.ndim < 2:
        raise ShapeError(expected(op, "input", "at least 2 axes, (N, C, …)", f"shape {x.array.shape}"))
    for name, t in named:
        if t is not None:
            check_channels(op, x, name, t)


def check_channels(op: str, x: Tensor, name: str, t: Tensor) -> None:
    is_tensor(op, name, t)
    channels = x.array.shape[1]
    if t.array.shape != (channels,):
        raise ShapeError(expected(op, name, f"shape (C,) = ({channels},)", t.array.shape))
    if t.dtype is not x.dtype and not (t.dtype.low or x.dtype.low):
        hint = f"convert the layer with .to(tb.{x.dtype.name}), or the input with .to(tb.{t.dtype.name})"
        raise DTypeError(expected(op, name, f"dtype {x.dtype.name}, as input has", t.dtype.name, hint))
    if t.device is not x.device:
        hint = f"move the layer with .to({x.device.type!r}), or the input with .to({t.device.type!r})"
        raise DeviceError(wrong(op, name, f"on device {x.device}, as the first argument is", str(t.device), hint))


def own_type(dtype: DType) -> DType:
    """The dtype of statistics, weight and bias of an input: float32 of low precision."""
    return float32 if dtype.low else dtype


def new_rows(x: Tensor) -> Array:
    """An uninitialised array for the rows of statistics, (4, C)."""
    return x.device.empty((4, x.array.shape[1]), own_type(x.dtype))


class _Held(threading.local):
    """Scratch that this thread's launches share, by its shape."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, tuple[int, ...]], Array] = {}


_held = _Held()
ONE_BLOCK = 256  # samples of (N, C) that are one block, and whose sums stay in registers


def scratch(x: Tensor, view: Array) -> Array:
    """Workspace for the sums of each channel's parts: float64 of shape (C, P, 3), on the host the next launch's too."""
    if x.device.type == "cuda":  # where launches of several streams may be under way
        from tinygrad_bn.kernels.cuda.bn_launch import cuts as cuts_on_gpu

        samples, channels, length = view.shape
        return x.device.empty((channels, cuts_on_gpu(channels, samples, length), 3), float64)
    found = _held.arrays.get((x.device.type, view.shape))
    if found is None:
        samples, channels, length = view.shape
        cuts = parts_of(channels, samples, length)
        if len(_held.arrays) >= 256:
            _held.arrays.clear()
        found = _held.arrays[x.device.type, view.shape] = x.device.empty((channels, cuts, 3), float64)
    return found
