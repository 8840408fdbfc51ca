"""Batch normalisation over any axes, and over the values that a mask leaves: the input in another form, and back.

    V    the places, along the axes that are not kept, that count: all of them, or those where the mask is True
    m    = |V|,   mean = Σ_V x / m,   var = Σ_V (x - mean)² / m         for each index of the axes that are kept
    y    = (x - mean) / √(var + eps) · weight + bias in V, 0 elsewhere

What counts is taken out, normalised as (m, C) by the operation that normalises everything else, and put back: numbers,
derivatives of any order and accuracy are that operation's, and what lies where the mask is False is never looked at.
Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.2, for convolutions: a channel is whatever shares a statistic.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import bool_
from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.core.tensor import Tensor, wrap
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, outside, wrong
from tinygrad_bn.ops._common import axis as one_axis
from tinygrad_bn.ops._common import is_floating, is_tensor, same_device
from tinygrad_bn.ops._layout import product
from tinygrad_bn.ops.indexing import add_rows, take_rows

Axis = int | tuple[int, ...]
"""The axes that keep a number for each index, as Keras and Flax have it: 1, or -1, or (1, 2)."""


def kept_axes(op: str, axis: object, ndim: int) -> tuple[int, ...]:
    """Return the axes that are kept as sorted numbers from 0.

    Raises
    ------
    ArgumentError, ShapeError
        If an axis is none of the input's, stands twice, or none is left to take statistics over.
    """
    given = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    found = sorted(one_axis(op, a, ndim, "axis") for a in given)
    if len(set(found)) != len(found):
        raise ArgumentError(wrong(op, "axis", f"free of repeated axes for an input of {ndim}", given))
    if len(found) >= ndim:
        hint = "'axis' names the axes that keep a statistic for each index, as in Keras and Flax: 1, -1 or (1, 2)"
        raise ArgumentError(wrong(op, "axis", f"fewer than the input's {ndim} axes", given, hint))
    return tuple(found)


class Form:
    """How an input is brought into the form (A, C, B), or (m, C) where a mask is given, and back.

    Parameters
    ----------
    op : str
        Whose arguments these are, for messages.
    input : Tensor
    axis : int or tuple of int
        The axes that are kept: C is the product of their extents.
    mask : Tensor of bool, optional
        Of the shape of the axes that are not kept, or of as many axes as the input with extent 1 where they are kept
        and, where it broadcasts, elsewhere; True marks what counts.

    Attributes
    ----------
    shape : tuple of int
        The input's.
    features : tuple of int
        The extents of the axes that are kept, in the input's order.
    count : int
        m, the values of a channel that count.
    """

    __slots__ = ("_inner", "_order", "_positions", "count", "features", "op", "shape")

    def __init__(self, op: str, input: Tensor, axis: object, mask: Tensor | None) -> None:
        x = is_floating(op, "input", input)
        self.op = op
        self.shape = shape = x.array.shape
        kept = kept_axes(op, axis, len(shape))
        rest = tuple(i for i in range(len(shape)) if i not in kept)
        self.features = tuple(shape[i] for i in kept)
        channels, self.count = product(self.features), product(tuple(shape[i] for i in rest))
        self._positions: Tensor | None = None
        self._order: tuple[int, ...] | None = None
        if mask is not None:
            self._positions = _positions(op, x, kept, rest, mask)
        elif kept and kept[-1] - kept[0] == len(kept) - 1:  # side by side: a view, channels_last and all
            before, after = shape[: kept[0]], shape[kept[-1] + 1 :]
            self._inner = shape if kept == (1,) else (product(before), channels, product(after))
            return
        self._order = (*rest, *kept)
        self._inner = (self.count, channels)
        if self._positions is not None:
            self.count = self._positions.array.size

    def inward(self, x: Tensor) -> Tensor:
        """Return a tensor of the input's shape in the form in which its second axis is the channels."""
        if self._order is not None:
            x = ops.permute(x, self._order)
        if x.array.shape != self._inner:
            x = ops.reshape(x, self._inner)
        return x if self._positions is None else take_rows(x, self._positions)

    def outward(self, y: Tensor) -> Tensor:
        """Undo ``inward``: 0 where the mask is False."""
        if self._positions is not None:
            y = add_rows(y, self._positions, self._inner)
        if self._order is None:
            return y if self._inner == self.shape else ops.reshape(y, self.shape)
        y = ops.reshape(y, tuple(self.shape[i] for i in self._order))
        return ops.permute(y, tuple(int(i) for i in np.argsort(self._order)))

    def flat(self, name: str, t: Tensor | None) -> Tensor | None:
        """Return a weight, bias or running statistic of the kept axes' shape as (C,): of the same memory.

        Raises
        ------
        ShapeError, ArgumentError
        """
        if t is None:
            return None
        if is_tensor(self.op, name, t).array.shape != self.features:
            want = f"shape {self.features}, the extents of the axes that are kept"
            raise ShapeError(expected(self.op, name, want, t.array.shape))
        if len(self.features) == 1:
            return t
        if not t.contiguous_array:
            raise ArgumentError(wrong(self.op, name, "contiguous", f"strides {t.array.strides}", "call contiguous()"))
        return ops.reshape(t, (-1,)) if t.node is not None else t.alias(t.array.reshape(-1))

    def check_count(self) -> None:
        """Raise if the batch's statistics are to be of one value a channel.

        Raises
        ------
        ArgumentError
        """
        if self.count != 1 or not product(self.features):
            return
        left = "" if self._positions is None else ", of which 'mask' leaves one value a channel"
        want = "more than one value a channel in training"
        hint = "use larger batches (drop_last=True), or eval mode"
        raise ArgumentError(expected(self.op, "input", want, f"shape {self.shape}{left}", hint))


def _positions(op: str, x: Tensor, kept: tuple[int, ...], rest: tuple[int, ...], mask: Tensor) -> Tensor:
    """The places that count, (m,) int64, in the axes that are not kept taken as one."""
    shape = x.array.shape
    want = tuple(shape[i] for i in rest)
    wide = tuple(1 if i in kept else n for i, n in enumerate(shape))
    is_tensor(op, "mask", mask)
    if mask.dtype is not bool_:
        raise DTypeError(expected(op, "mask", "dtype bool, True for what counts", mask.dtype.name, "pass mask != 0"))
    same_device(op, x, "mask", mask)
    own = mask.array.shape
    broadcasts = len(own) == len(wide) and all(n in (1, m) for n, m in zip(own, wide, strict=True))
    if own != want and not broadcasts:
        many = len(own) == len(shape) and any(own[i] != 1 for i in kept)
        hint = "one mask serves all channels: leave their axes out" if many else None
        raise ShapeError(expected(op, "mask", f"shape {want} or {wide} for an input of shape {shape}", own, hint))
    reads_values("a batch normalisation with a mask")
    chosen = mask.device.to_host(mask.array)
    found = np.flatnonzero(chosen if own == want else np.broadcast_to(chosen, wide))
    if x.array.size and not found.size:
        text = f"{op}: 'mask' is False everywhere: the output is 0, and no running statistic moves.\n"
        warnings.warn(
            f"{text}Hint: True marks what counts; pass ~mask of a mask of the padding.", RuntimeWarning, outside()
        )
    return wrap(np.ascontiguousarray(found, np.int64), x.device)


def checked_features(op: str, num_features: Any, axis: Any) -> tuple[int | tuple[int, ...], Axis]:
    """Return a layer's ``num_features`` and ``axis`` after they have been found to fit each other.

    Raises
    ------
    ArgumentError
    """
    given = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    if any(isinstance(a, bool) or not isinstance(a, int) for a in given):
        raise ArgumentError(wrong(op, "axis", "an int or a tuple of ints", repr(axis)))
    features = tuple(num_features) if isinstance(num_features, tuple | list) else (num_features,)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in features):
        want = "an int of at least 0" if len(given) == 1 else "a tuple of ints of at least 0"
        raise ArgumentError(wrong(op, "num_features", want, repr(num_features)))
    if len(features) != len(given):
        hint = "num_features=(C, L), axis=(1, 2) keeps a number for each index of both axes"
        want = f"as many extents as 'axis' = {axis} has axes"
        raise ArgumentError(wrong(op, "num_features", want, repr(num_features), hint))
    if len(given) == 1 and not isinstance(axis, tuple | list):
        return features[0], given[0]
    return features, given
