"""Planes (P, H, W): pooled over windows of tables, and read at other rows and columns.

    avg_pool     y[p, r, c] = Σ x[p, a ≤ h < b, u ≤ w < v] / (m n),  (a, b, m) = rows[r], (u, v, n) = columns[c]
    take_grid    y[p, r, c] = x[p, rows[r], columns[c]]

Tables are int64 (R, 3): first, end, and what a window counts. Windows that move by a stride are in ``windows.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _largest(window: Array, places: Array) -> tuple[Array, Array]:
    """The largest of each row of (P, K) and its place: the first maximum, or the last NaN."""
    nan = np.isnan(window)
    last_nan = window.shape[1] - 1 - nan[:, ::-1].argmax(axis=1)
    at = np.where(nan.any(axis=1), last_nan, window.argmax(axis=1))
    return np.take_along_axis(window, at[:, None], 1)[:, 0], places[at]


@spec(writes="out index")
def adaptive_max_pool(x: Array, rows: Array, columns: Array, out: Array, index: Array) -> None:
    """The maximum over the windows of two tables, and its place in the plane."""
    planes, height, width = x.shape
    every = np.arange(height * width).reshape(height, width)
    for r, (a, b, _) in enumerate(rows):
        for c, (u, v, _) in enumerate(columns):
            window = x[:, a:b, u:v].reshape(planes, -1)
            out[:, r, c], index[:, r, c] = _largest(window, every[a:b, u:v].ravel())


@spec()
def pool_scatter(gy: Array, index: Array, out: Array) -> None:
    """Zeros (P, H, W) with gy[p, o] added at the place index[p, o] of each plane; places below 0 count for nothing."""
    out[...] = 0
    planes = np.arange(len(out))[:, None] + np.zeros_like(index)
    inside = index >= 0
    np.add.at(out.reshape(len(out), -1), (planes[inside], index[inside]), gy[inside])


@spec()
def pool_gather(x: Array, index: Array, out: Array) -> None:
    """out[p, o] = x[p] at the place index[p, o], 0 where that is below 0."""
    if out.size:
        found = np.take_along_axis(x.reshape(len(x), -1), np.maximum(index, 0), 1)
        out[...] = np.where(index >= 0, found, 0)


@spec(workspace="work")
def avg_pool(x: Array, rows: Array, columns: Array, work: Array, out: Array) -> None:
    """``work`` is (parts, W), a row for each share of the planes."""
    for r, (a, b, m) in enumerate(rows):
        for c, (u, v, n) in enumerate(columns):
            out[:, r, c] = x[:, a:b, u:v].sum(axis=(1, 2), dtype=np.float64) / (m * n)


@spec(workspace="work")
def avg_pool_backward(gy: Array, rows: Array, columns: Array, work: Array, out: Array) -> None:
    """gx[p, h, w] = Σ gy[p, r, c] / (m n) over the windows that hold (h, w)."""
    out[...] = 0
    for r, (a, b, m) in enumerate(rows):
        for c, (u, v, n) in enumerate(columns):
            out[:, a:b, u:v] += (gy[:, r, c] / (m * n))[:, None, None]


@spec()
def take_grid(x: Array, rows: Array, columns: Array, out: Array) -> None:
    """out[p, r, c] = x[p, rows[r], columns[c]]."""
    out[...] = x[:, rows[:, None], columns]


@spec()
def add_grid(gy: Array, rows: Array, columns: Array, out: Array) -> None:
    """Zeros (P, H, W) with gy[p, r, c] added at [p, rows[r], columns[c]]."""
    out[...] = 0
    everywhere: Any = (slice(None), rows[:, None], columns)
    np.add.at(out, everywhere, gy)
