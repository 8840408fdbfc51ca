"""Kernels that gather and scatter rows. An array is seen as (S, R): S positions, rows of R elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


@spec(status="'index' must be in range for an axis of {limit} elements. Got {value} at position {position}.")
def ravel_index(indices: Array, extents: Array, out: Array, status: Array) -> None:
    """Combine K indices per element, shape (K, M) int64, negative ones from the end, into one over extents (K,)."""
    n = extents[:, None]
    bad = (indices < -n) | (indices >= n)
    if bad.any():
        m, k = np.argwhere(bad.T)[0]
        status[:] = 1, m, indices[k, m], extents[k]
        out[:] = 0
        return
    out[:] = 0
    for index, extent in zip(indices, extents, strict=True):
        out *= extent
        out += index + np.where(index < 0, extent, 0)


@spec()
def take_rows(x: Array, positions: Array, out: Array) -> None:
    """out_m = x[positions_m]."""
    out[...] = x[positions]


@spec(updates="out", writes="")
def put_rows(x: Array, positions: Array, out: Array) -> None:
    """out[positions_m] = x_m; of repeated positions the last counts."""
    for position, row in zip(positions, x, strict=True):
        out[position] = row


@spec(updates="out", writes="")
def add_rows(x: Array, positions: Array, out: Array) -> None:
    """out[positions_m] += x_m, in order."""
    np.add.at(out, positions, x)


@spec()
def take_along(x: Array, positions: Array, out: Array) -> None:
    """out[a, m, b] = x[a, positions[a, m, b], b] for x (A, R, B)."""
    out[...] = np.take_along_axis(x, positions, 1)


@spec()
def spread(gy: Array, positions: Array, out: Array) -> None:
    """Zeros of shape (A, R, B) with gy[a, m, b] added at out[a, positions[a, m, b], b]."""
    out[...] = 0
    a, _, b = np.indices(positions.shape)
    np.add.at(out, (a, positions, b), gy)


@spec(status="'index' must be at least 0 and below {limit}. Got {value} at position {position}.")
def check_index(index: Array, limit: int, wrap: bool, out: Array, status: Array) -> None:
    """out = index (M,) int64 where 0 <= index < limit; with ``wrap``, -limit <= index < 0 counts from the end."""
    bad = (index < (-limit if wrap else 0)) | (index >= limit)
    if bad.any():
        m = bad.argmax()
        status[:] = 1, m, index[m], limit
    out[...] = np.where(bad, 0, index + np.where(index < 0, limit, 0))


@spec(updates="out", writes="")
def put_along(x: Array, positions: Array, out: Array) -> None:
    """out[a, positions[a, m, b], b] = x[a, m, b] for out (A, R, B); of repeated positions the last counts."""
    for a, m, b in np.ndindex(*positions.shape):
        out[a, positions[a, m, b], b] = x[a, m, b]
