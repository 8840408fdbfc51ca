"""Pooling, with PyTorch's names, arguments and rounding of sizes. One axis is a plane of one row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.ops import pooling
from tinygrad_bn.ops._common import is_floating
from tinygrad_bn.ops._geometry import check_axes, numbers
from tinygrad_bn.ops.pooling import Tables, Window

Ints = int | Sequence[int]
LARGE = 64  # elements of a window from which an average adds rows up first, then columns


# ------------------------------------------------------------------------------------------------------------ arguments


def images(op: str, input: object, axes: int) -> Tensor:
    """Return the input if it is (C, …) or (N, C, …) with as many axes behind as are pooled over."""
    x = is_floating(op, "input", input)
    check_axes(op, x.array.shape, axes)
    return x


@lru_cache(maxsize=1024)
def _windows(
    op: str,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool,
) -> tuple[int, ...]:
    """The extents of the result.

    Notes
    -----
    ⌊(n + 2 p - d (k - 1) - 1) / s⌋ + 1, with ``ceil_mode`` rounded up, but for a last window that would begin behind
    the input and its padding ahead.
    """
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ArgumentError(wrong(op, "padding", f"at most half of the kernel {kernel}", padding))
    size = []
    for n, k, s, p, d in zip(shape, kernel, stride, padding, dilation, strict=True):
        rest = n + 2 * p - d * (k - 1) - 1
        out = (-(-rest // s) if ceil_mode else rest // s) + 1
        size.append(out - 1 if ceil_mode and (out - 1) * s >= n + p else out)
    if min(size) < 1 or min(shape) < 1:
        reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
        want = f"room for a window of {reach} with a padding of {padding} in its last axes"
        raise ShapeError(expected(op, "input", want, shape))
    return tuple(size)


# -------------------------------------------------------------------------------------------------------------- maxima


def _max_pool(
    op: str,
    axes: int,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    x = images(op, input, axes)
    kernel = numbers(op, "kernel_size", kernel_size, axes, 1)
    step = kernel if stride is None else numbers(op, "stride", stride, axes, 1)
    pad = numbers(op, "padding", padding, axes, 0)
    gap = numbers(op, "dilation", dilation, axes, 1)
    size = _windows(op, x.array.shape[-axes:], kernel, step, pad, gap, bool(ceil_mode))
    kh, sh, ph, dh = (1, 1, 0, 1) if axes == 1 else (kernel[0], step[0], pad[0], gap[0])
    window = Window(kh, kernel[-1], sh, step[-1], ph, pad[-1], dh, gap[-1])
    out, index = pooling.max_pool(x, window, size, bool(return_indices))
    return (out, index) if return_indices else out


@overload
def max_pool1d(
    input: Tensor, kernel_size: Ints, stride: Ints | None = ..., padding: Ints = ..., dilation: Ints = ...,
    ceil_mode: bool = ..., return_indices: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def max_pool1d(input: Tensor, *args: Any, **kwargs: Any) -> Any: ...
def max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the maxima over a window that moves along the last axis.

    Parameters
    ----------
    input : Tensor, shape (N, C, L) or (C, L), floating point
    kernel_size, stride, padding, dilation : int or tuple of one int
        ``stride`` is the kernel's size by default; the padding, at most half of the kernel, is never a maximum.
    ceil_mode : bool
        Round the number of windows up: the last may reach over the end.
    return_indices : bool
        Return the positions of the maxima, int64, too.

    Returns
    -------
    Tensor, shape (N, C, L') or (C, L'); with ``return_indices`` two of them

    Raises
    ------
    ArgumentError, DTypeError, ShapeError
    """
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@overload
def max_pool2d(
    input: Tensor, kernel_size: Ints, stride: Ints | None = ..., padding: Ints = ..., dilation: Ints = ...,
    ceil_mode: bool = ..., return_indices: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def max_pool2d(input: Tensor, *args: Any, **kwargs: Any) -> Any: ...
def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the maxima over a window that moves along the last two axes.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W) or (C, H, W), floating point
    kernel_size, stride, padding, dilation : int or tuple of two ints
        ``stride`` is the kernel's size by default; the padding, at most half of the kernel, is never a maximum.
    ceil_mode : bool
        Round the numbers of windows up: the last ones may reach over the end.
    return_indices : bool
        Return the places of the maxima in their plane, row · W + column, int64, too.

    Returns
    -------
    Tensor, shape (N, C, H', W') or (C, H', W'); with ``return_indices`` two of them

    Raises
    ------
    ArgumentError, DTypeError, ShapeError

    Notes
    -----
    Of equal maxima the first gets the gradient. NaN is larger than any number.
    """
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


# ------------------------------------------------------------------------------------------------------------- averages


class _Axis(NamedTuple):
    """The windows of one axis, int64 (R, 3): first, end, and what they count; and that by itself, (R,)."""

    windows: Array
    counts: Array


@lru_cache(maxsize=1024)
def _mean_table(n: int, size: int, k: int, s: int, p: int, include: bool, count: int) -> _Axis:
    """The windows of one axis; ``count``, where not 0, is what all of them count."""
    first = np.arange(size) * s - p
    end = np.minimum(first + k, n + p)
    inside = np.maximum(first, 0), np.minimum(end, n)
    counts = end - first if include else inside[1] - inside[0]
    if count:
        counts = np.full(size, count)
    return _Axis(np.stack([*inside, counts], 1), counts)


def _avg_pool(
    op: str,
    axes: int,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    ceil_mode: bool,
    include: bool,
    divisor: int | None = None,
) -> Tensor:
    x = images(op, input, axes)
    kernel = numbers(op, "kernel_size", kernel_size, axes, 1)
    step = kernel if stride is None else numbers(op, "stride", stride, axes, 1)
    pad = numbers(op, "padding", padding, axes, 0)
    if divisor is not None and (isinstance(divisor, bool) or not isinstance(divisor, int) or divisor == 0):
        raise ArgumentError(wrong(op, "divisor_override", "an int other than 0", repr(divisor)))
    shape = x.array.shape[-axes:]
    size = _windows(op, shape, kernel, step, pad, (1,) * axes, bool(ceil_mode))
    counts = (0, 0) if divisor is None else (1, divisor)
    extents = list(zip(shape, size, kernel, step, pad, strict=True))
    columns = _mean_table(*extents[-1], bool(include), counts[1])
    rows = _mean_table(*extents[0], bool(include), counts[0]) if axes == 2 else _mean_table(1, 1, 1, 1, 0, True, 0)
    kh, sh, ph = (1, 1, 0) if axes == 1 else (kernel[0], step[0], pad[0])
    if kh * kernel[-1] > LARGE:
        return pooling.avg_pool(x, Tables(rows.windows, columns.windows), axes)
    window = Window(kh, kernel[-1], sh, step[-1], ph, pad[-1], 1, 1)
    return pooling.mean_pool(x, window, Tables(rows.counts, columns.counts), axes)


def avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the averages over a window that moves along the last axis.

    Parameters
    ----------
    input : Tensor, shape (N, C, L) or (C, L), floating point
    kernel_size, stride, padding : int or tuple of one int
        ``stride`` is the kernel's size by default; the padding, with zeros, is at most half of the kernel.
    ceil_mode : bool
        Round the number of windows up: the last may reach over the end.
    count_include_pad : bool
        Whether the zeros of the padding count.

    Returns
    -------
    Tensor, shape (N, C, L') or (C, L')

    Raises
    ------
    ArgumentError, DTypeError, ShapeError
    """
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the averages over a window that moves along the last two axes.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W) or (C, H, W), floating point
    kernel_size, stride, padding : int or tuple of two ints
        ``stride`` is the kernel's size by default; the padding, with zeros, is at most half of the kernel.
    ceil_mode : bool
        Round the numbers of windows up: the last ones may reach over the end.
    count_include_pad : bool
        Whether the zeros of the padding count.
    divisor_override : int, optional
        Divide all sums by this instead of by what the window counts.

    Returns
    -------
    Tensor, shape (N, C, H', W') or (C, H', W')

    Raises
    ------
    ArgumentError, DTypeError, ShapeError
    """
    args = (input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _avg_pool("avg_pool2d", 2, *args)
