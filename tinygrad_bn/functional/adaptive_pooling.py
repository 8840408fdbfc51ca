"""Adaptive pooling, with PyTorch's names and arguments: the size of the result is given, the windows follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, Literal, overload

import numpy as np

from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.functional.pooling import images
from tinygrad_bn.ops import pooling
from tinygrad_bn.ops.pooling import Tables
from tinygrad_bn.ops.sums import scaled_sum

Size = int | None | Sequence[int | None]


@lru_cache(maxsize=1024)
def _adaptive_table(n: int, size: int) -> Array:
    """The windows from ⌊i n / size⌋ to ⌈(i + 1) n / size⌉."""
    i = np.arange(size)
    first, end = i * n // max(size, 1), -(-(i + 1) * n // max(size, 1))
    return np.stack([first, end, end - first], 1)


def _adaptive(op: str, axes: int, input: Tensor, output_size: Size) -> tuple[Tensor, tuple[int, ...], Tables]:
    x = images(op, input, axes)
    shape = x.array.shape[-axes:]
    given = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size,) * axes
    size: tuple[Any, ...] = tuple(n if g is None else g for g, n in zip(given, shape, strict=False))
    if len(given) != axes or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in size):
        want = "an int of at least 0, None" + (" or a tuple of two of these" if axes == 2 else " or a tuple of one")
        raise ArgumentError(wrong(op, "output_size", want, repr(output_size)))
    if 0 in shape:
        raise ShapeError(expected(op, "input", "no empty axis but the batch", x.array.shape))
    tables = [_adaptive_table(n, m) for n, m in zip(shape, size, strict=True)]
    return x, size, Tables(tables[0] if axes == 2 else _adaptive_table(1, 1), tables[-1])


@mixed()
def _adaptive_avg(op: str, axes: int, input: Tensor, output_size: Size) -> Tensor:
    x, size, tables = _adaptive(op, axes, input, output_size)
    if size == (1,) * axes:
        last = tuple(range(x.array.ndim - axes, x.array.ndim))
        return scaled_sum(x, last, True, 1.0 / prod(x.array.shape[-axes:]))
    return pooling.avg_pool(x, tables, axes)


def adaptive_avg_pool1d(input: Tensor, output_size: Size) -> Tensor:
    """Return averages over the last axis cut into ``output_size`` windows of nearly one size.

    Parameters
    ----------
    input : Tensor, shape (N, C, L) or (C, L), floating point
    output_size : int, None for L, or a tuple of one

    Returns
    -------
    Tensor, shape (N, C, output_size) or (C, output_size)

    Raises
    ------
    ArgumentError, DTypeError, ShapeError

    Notes
    -----
    Window i goes from ⌊i L / size⌋ to ⌈(i + 1) L / size⌉.
    """
    return _adaptive_avg("adaptive_avg_pool1d", 1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Size) -> Tensor:
    """Return averages over the last two axes cut into ``output_size`` windows of nearly one size.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W) or (C, H, W), floating point
    output_size : int, None, or a tuple of two of these
        None keeps the input's extent.

    Returns
    -------
    Tensor, shape (N, C, *output_size) or (C, *output_size)

    Raises
    ------
    ArgumentError, DTypeError, ShapeError

    Notes
    -----
    Window i of n elements goes from ⌊i n / size⌋ to ⌈(i + 1) n / size⌉. Size 1 is the mean over the plane.
    """
    return _adaptive_avg("adaptive_avg_pool2d", 2, input, output_size)


def _adaptive_max(op: str, axes: int, input: Tensor, output_size: Size, return_indices: bool) -> Any:
    x, size, tables = _adaptive(op, axes, input, output_size)
    out, index = pooling.adaptive_max_pool(x, tables, size)
    return (out, index) if return_indices else out


@overload
def adaptive_max_pool1d(input: Tensor, output_size: Size, return_indices: Literal[False] = ...) -> Tensor: ...
@overload
def adaptive_max_pool1d(input: Tensor, *args: Any, **kwargs: Any) -> Any: ...
def adaptive_max_pool1d(input: Tensor, output_size: Size, return_indices: bool = False) -> Any:
    """Return maxima over the windows of ``adaptive_avg_pool1d``; with ``return_indices`` their positions too."""
    return _adaptive_max("adaptive_max_pool1d", 1, input, output_size, return_indices)


@overload
def adaptive_max_pool2d(input: Tensor, output_size: Size, return_indices: Literal[False] = ...) -> Tensor: ...
@overload
def adaptive_max_pool2d(input: Tensor, *args: Any, **kwargs: Any) -> Any: ...
def adaptive_max_pool2d(input: Tensor, output_size: Size, return_indices: bool = False) -> Any:
    """Return maxima over the windows of ``adaptive_avg_pool2d``; with ``return_indices`` their places too."""
    return _adaptive_max("adaptive_max_pool2d", 2, input, output_size, return_indices)
