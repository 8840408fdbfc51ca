"""Reductions over the middle axis of an array seen as (A, R, B): y_ab = reduce_r x_arb."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]
SHARE = 1 << 15  # elements of a long row that one thread sums


@spec()
def sum(x: Array, scale: float, out: Array) -> None:
    """out = scale · Σ x, shape (A, B), of floating-point numbers, accumulated in float64."""
    with np.errstate(all="ignore"):
        np.copyto(out, x.sum(axis=1, dtype=np.float64) * scale, casting="unsafe")


@spec(workspace="parts")
def sum_all(x: Array, scale: float, parts: Array, out: Array) -> None:
    """out = scale · Σ x, shape (1, 1), of a long row, in shares of ``SHARE`` elements: ``parts`` has ⌈N / SHARE⌉ of
    float64."""
    with np.errstate(all="ignore"):
        np.copyto(out, x.sum(dtype=np.float64) * scale, casting="unsafe")


@spec()
def sum_int(x: Array, out: Array) -> None:
    """out = Σ x, shape (A, B), of integers and booleans, in int64."""
    x.sum(axis=1, dtype=np.int64, out=out)


@spec(writes="out index")
def extreme(x: Array, largest: bool, out: Array, index: Array) -> None:
    """The largest (or smallest) element and its first position, int64; a NaN beats anything."""
    index[...] = x.argmax(axis=1) if largest else x.argmin(axis=1)
    out[...] = np.take_along_axis(x, index[:, None], 1)[:, 0]
