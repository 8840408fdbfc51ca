"""Windows that move over planes (P, H, W): maxima and means, and what becomes of their gradients.

    max_pool     y[p, r, c] = max over i, j of x[p, r sh - ph + i dh, c sw - pw + j dw], where that lies in the plane
    mean_pool    y[p, r, c] = Σ over i, j of x[p, r sh - ph + i, c sw - pw + j] in the plane / (m_r n_c)

A code says which element of its window is the largest: i kw + j, or kh kw where the window misses the plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _elements(
    shape: tuple[int, int], size: tuple[int, int], kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int,
    dw: int,
) -> tuple[Array, Array]:  # fmt: skip
    """Rows and columns (R, C, kh kw) of the windows' elements."""
    i, j = np.divmod(np.arange(kh * kw), kw)
    rows = np.arange(size[0])[:, None, None] * sh - ph + i * dh + np.zeros((size[1], 1), int)
    columns = np.arange(size[1])[:, None] * sw - pw + j * dw + np.zeros((size[0], 1, 1), int)
    return rows, columns


@spec(writes="out code", workspace="work")
def max_pool(
    x: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int, work: Array, out: Array,
    code: Array,
) -> None:  # fmt: skip
    """The first of equal maxima, the last NaN where there is one; -inf where a window misses the plane.

    ``work`` is (parts, ``windows.forward_work``), for each share of the planes.
    """
    height, width = x.shape[1:]
    rows, columns = _elements((height, width), out.shape[1:], kh, kw, sh, sw, ph, pw, dh, dw)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    values = np.where(inside, x[:, rows.clip(0, height - 1), columns.clip(0, width - 1)], -np.inf)
    nan = np.isnan(values)
    rank = np.where(nan, np.inf, values)
    best = np.where(inside, rank, -np.inf).max(-1, keepdims=True)
    first = (inside & (rank == best)).argmax(-1)
    last = kh * kw - 1 - nan[..., ::-1].argmax(-1)
    at = np.where(nan.any(-1), last, first)
    out[...] = np.take_along_axis(values, at[..., None], -1)[..., 0]
    code[...] = np.where(inside.any(-1), at, kh * kw)


@spec(workspace="work")
def max_pool_backward(
    gy: Array, code: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int, work: Array,
    out: Array,
) -> None:  # fmt: skip
    """Zeros (P, H, W) with each gy added at its maximum. ``work`` is (parts, ``windows.backward_work``)."""
    out[...] = 0
    p, r, c = np.nonzero(code < kh * kw)
    i, j = np.divmod(code[p, r, c].astype(np.int64), kw)
    np.add.at(out, (p, r * sh - ph + i * dh, c * sw - pw + j * dw), gy[p, r, c])


@spec(writes="index")
def max_pool_places(
    code: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int, width: int, index: Array
) -> None:
    """Where the maxima are in a plane of that width, row W + column; -1 where a window misses the plane."""
    r, c = np.indices(code.shape[1:])
    i, j = np.divmod(code.astype(np.int64), kw)
    index[...] = np.where(code < kh * kw, (r * sh - ph + i * dh) * width + c * sw - pw + j * dw, -1)


@spec(workspace="work")
def mean_pool(
    x: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, rows: Array, columns: Array, work: Array, out: Array
) -> None:
    """``rows`` (R,) and ``columns`` (C,), int64, are what the windows count: m and n. ``work`` as of ``max_pool``."""
    height, width = x.shape[1:]
    h, w = _elements((height, width), out.shape[1:], kh, kw, sh, sw, ph, pw, 1, 1)
    inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
    values = np.where(inside, x[:, h.clip(0, height - 1), w.clip(0, width - 1)], 0)
    out[...] = values.sum(-1, dtype=np.float64) / (rows[:, None] * columns)


@spec(workspace="work")
def mean_pool_backward(
    gy: Array, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, rows: Array, columns: Array, work: Array,
    out: Array,
) -> None:  # fmt: skip
    """gx[p, h, w] = Σ gy[p, r, c] / (m n) over the windows that hold (h, w). ``work`` as of ``max_pool_backward``."""
    share = gy / (rows[:, None] * columns)
    out[...] = 0
    for r in range(gy.shape[1]):
        for c in range(gy.shape[2]):
            top, left = r * sh - ph, c * sw - pw
            window = (slice(max(top, 0), max(top + kh, 0)), slice(max(left, 0), max(left + kw, 0)))
            out[(slice(None), *window)] += share[:, r, c, None, None]
