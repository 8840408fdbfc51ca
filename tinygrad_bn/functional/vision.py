"""Padding, resizing and local response normalisation of images and sequences, with PyTorch's names and arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.ops import padding, pooling
from tinygrad_bn.ops._common import is_floating, is_tensor
from tinygrad_bn.ops._layout import product

Maps = Sequence[Array]


def at_positions(x: Tensor, maps: Maps) -> Tensor:
    """Return a tensor whose last axes, one to three, are read at the positions of one map each."""
    shape = x.array.shape
    if len(maps) == 1:
        return padding.take_grid(x, _whole(1), maps[0], 1)
    out = padding.take_grid(x, maps[-2], maps[-1], 2)
    if len(maps) == 2:
        return out
    lead, tail = shape[:-3], out.array.shape[-2:]
    flat = ops.reshape(out, (*lead, shape[-3], product(tail)))
    return ops.reshape(padding.take_grid(flat, maps[0], _whole(product(tail)), 2), (*lead, len(maps[0]), *tail))


@lru_cache(maxsize=1024)
def _whole(n: int) -> Array:
    return np.arange(n)


# -------------------------------------------------------------------------------------------------------------- padding


def _reflected(t: Array, n: int) -> Array:
    return np.asarray(n - 1 - np.abs(n - 1 - np.abs(t)))


def _replicated(t: Array, n: int) -> Array:
    return np.clip(t, 0, n - 1)


def _wrapped(t: Array, n: int) -> Array:
    return np.asarray(t % n)


MODES: dict[str, tuple[Callable[[Array, int], Array], str, Callable[[int], int | None]]] = {
    "reflect": (_reflected, "less than", lambda n: n - 1),
    "replicate": (_replicated, "", lambda n: None),
    "circular": (_wrapped, "at most", lambda n: n),
}
"""How each mode reads positions beyond the ends, and how many it can put on an axis of n."""


@lru_cache(maxsize=1024)
def _positions(mode: str, n: int, ahead: int, behind: int) -> Array:
    return np.ascontiguousarray(MODES[mode][0](np.arange(-ahead, n + behind), n))


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Return the input with something put on the ends of its last axes.

    Parameters
    ----------
    input : Tensor, any shape; (…, L), (…, H, W) or (…, D, H, W) with one or two axes ahead unless ``mode="constant"``
    pad : sequence of int
        Before and behind the last axis, before and behind the last but one, and so on. Negative numbers cut off.
    mode : {"constant", "reflect", "replicate", "circular"}
        Put on a number; the input mirrored at its last element; its last element; its other end.
    value : number, optional
        The constant, 0 by default; only with ``mode="constant"``.

    Returns
    -------
    Tensor

    Raises
    ------
    ArgumentError, ShapeError, DTypeError
    """
    x = is_tensor("pad", "input", input)
    sides = _sides(x, pad)
    if mode == "constant":
        whole = ((0, 0),) * (x.array.ndim - len(sides)) + sides
        return padding.pad_constant(x, whole, 0 if value is None else value)
    if mode not in MODES:
        raise ArgumentError(wrong("pad", "mode", "'constant', 'reflect', 'replicate' or 'circular'", repr(mode)))
    if value is not None:
        raise ArgumentError(wrong("pad", "value", f"left out where 'mode' is {mode!r}", value))
    count = len(sides)
    if not 1 <= count <= 3 or x.array.ndim - count not in (1, 2):
        want = "2, 4 or 6 numbers for the last 1, 2 or 3 axes behind one or two others, as 'mode' is not 'constant'"
        raise ShapeError(expected("pad", "pad", want, f"{tuple(pad)} for shape {x.array.shape}"))
    shape = x.array.shape[-count:]
    for n, side in zip(shape, sides, strict=True):
        _check_reach(mode, n, side, x.array.shape)
    return at_positions(x, [_positions(mode, n, a, b) for n, (a, b) in zip(shape, sides, strict=True)])


def _sides(x: Tensor, pad: Any) -> padding.Sides:
    """The numbers for each of the last axes, in their order."""
    given = tuple(pad) if isinstance(pad, tuple | list) else (pad,)
    if any(isinstance(p, bool) or not isinstance(p, int | np.integer) for p in given):
        raise ArgumentError(wrong("pad", "pad", "a sequence of ints", repr(pad)))
    if len(given) % 2 or len(given) > 2 * x.array.ndim:
        want = f"two numbers an axis, at most {2 * x.array.ndim} for {x.array.ndim} axes"
        raise ShapeError(expected("pad", "pad", want, repr(pad)))
    sides = tuple((int(given[i]), int(given[i + 1])) for i in range(len(given) - 2, -1, -2))
    for n, (a, b) in zip(x.array.shape[x.array.ndim - len(sides) :], sides, strict=True):
        if n + min(a, 0) + min(b, 0) < 0 or n + a + b < 0:
            raise ShapeError(wrong("pad", "pad", f"no more cut off than the axis of {n} has", (a, b)))
    return sides


def _check_reach(mode: str, n: int, side: tuple[int, int], shape: tuple[int, ...]) -> None:
    """Raise if more is to be put on than the mode can make of n elements."""
    _, words, limit = MODES[mode]
    most = limit(n)
    if n + sum(side) < 1 or n < 1:
        raise ShapeError(expected("pad", "pad", f"something left of the axis of {n} in {shape}", side))
    if most is not None and max(side) > most:
        raise ShapeError(wrong("pad", "pad", f"{words} the axis of {n} in {shape}, as 'mode' is {mode!r}", side))


# ------------------------------------------------------------------------------------------------------------- resizing


@lru_cache(maxsize=1024)
def _nearest(n: int, size: int, factor: float | None) -> Array:
    """⌊i · scale⌋ in float32, as PyTorch rounds; scale is n / size, or 1 / factor where a factor was given."""
    scale = np.float32(1.0 / factor) if factor else np.float32(n) / np.float32(size)
    return np.asarray(np.minimum(np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int64), n - 1))


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Return the input resized along its last axes, each element a copy of the nearest.

    Parameters
    ----------
    input : Tensor, shape (N, C, L), (N, C, H, W) or (N, C, D, H, W), floating point
    size : int or sequence of int, optional
        The extents of the result; one for all or one each. Either this or ``scale_factor`` must be given.
    scale_factor : float or sequence of float, optional
        By what to multiply the extents, rounded down.
    mode : {"nearest"}
        The only one there is here.
    align_corners, antialias
        For other modes: must be left out.
    recompute_scale_factor : bool, optional
        Compute the scale from the extents, once these are rounded.

    Returns
    -------
    Tensor, shape (N, C, …)

    Raises
    ------
    ArgumentError, DTypeError, ShapeError

    Notes
    -----
    Element i is element ⌊i n / size⌋ of the input, computed in float32 as in PyTorch; ⌊i / scale_factor⌋ where that was
    given.
    """
    op = "interpolate"
    x = is_floating(op, "input", input)
    if mode != "nearest":
        raise ArgumentError(wrong(op, "mode", "'nearest', the only one there is here", repr(mode)))
    if align_corners is not None or antialias:
        name, value = ("antialias", antialias) if antialias else ("align_corners", align_corners)
        raise ArgumentError(wrong(op, name, "left out where 'mode' is 'nearest'", value))
    if x.array.ndim not in (3, 4, 5):
        raise ShapeError(expected(op, "input", "shape (N, C, L), (N, C, H, W) or (N, C, D, H, W)", x.array.shape))
    if (size is None) == (scale_factor is None):
        got = "both" if size is not None else "none"
        raise ArgumentError(f"{op}: exactly one of 'size' and 'scale_factor' must be given. Got {got}.")
    shape = x.array.shape[2:]
    factors: tuple[Any, ...] = (None,) * len(shape)
    if size is not None:
        extents = _per_axis("size", size, len(shape), int)
    else:
        factors = _per_axis("scale_factor", scale_factor, len(shape), float)
        extents = tuple(int(n * f) for n, f in zip(shape, factors, strict=True))
    if min(extents) < 1 or 0 in x.array.shape[1:]:
        raise ShapeError(wrong(op, "size", f"at least 1, and no axis of {x.array.shape} but the first 0", extents))
    given = (None,) * len(shape) if recompute_scale_factor else factors
    return at_positions(x, [_nearest(n, m, f) for n, m, f in zip(shape, extents, given, strict=True)])


def _per_axis(name: str, value: Any, count: int, kind: type) -> tuple[Any, ...]:
    given = tuple(value) if isinstance(value, tuple | list) else (value,) * count
    allowed = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    if len(given) != count or any(isinstance(v, bool) or not isinstance(v, allowed) for v in given):
        want = f"{'an int' if kind is int else 'a number'} or one for each of {count} axes"
        raise ArgumentError(wrong("interpolate", name, want, repr(value)))
    return tuple(kind(v) for v in given)


def upsample(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Return ``interpolate`` of the same arguments: PyTorch's older name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


# -------------------------------------------------------------------------------------------------- local response norm


@lru_cache(maxsize=256)
def _neighbours(channels: int, size: int) -> Array:
    """Windows over ``size`` channels about each, all counted."""
    c = np.arange(channels)
    first, end = np.maximum(c - size // 2, 0), np.minimum(c + (size - 1) // 2 + 1, channels)
    return np.stack([first, end, np.full(channels, size)], 1)


@lru_cache(maxsize=256)
def _single(n: int) -> Array:
    """Windows of one element each."""
    i = np.arange(n)
    return np.stack([i, i + 1, np.ones_like(i)], 1)


@mixed("first")
def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Return the input divided by a power of the mean square of the channels about each.

    Parameters
    ----------
    input : Tensor, shape (N, C, …) of at least three axes, floating point
    size : int
        How many channels are averaged over; those beyond the ends count as zeros.
    alpha, beta, k : float

    Returns
    -------
    Tensor, the input's shape

    Raises
    ------
    ArgumentError, DTypeError, ShapeError

    Notes
    -----
    y = x / (k + alpha · mean x²)^beta, over channels c - ⌊size / 2⌋ to c + ⌊(size - 1) / 2⌋.

    References
    ----------
    Krizhevsky, Sutskever, Hinton 2012 (NeurIPS 25), section 3.3, which sums where this, as PyTorch, averages.
    """
    op = "local_response_norm"
    x = is_floating(op, "input", input)
    shape = x.array.shape
    if len(shape) < 3:
        raise ShapeError(expected(op, "input", "shape (N, C, …) of at least three axes", shape))
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ArgumentError(wrong(op, "size", "an int of at least 1", repr(size)))
    n, c, rest = shape[0], shape[1], product(shape[2:])
    squares = ops.reshape(ops.mul(x, x), (n, c, rest))
    means = pooling.avg_pool(squares, pooling.Tables(_neighbours(c, size), _single(rest)), 2)
    scale = ops.pow(ops.add(ops.mul(ops.reshape(means, shape), alpha), k), beta)
    return ops.div(x, scale)
