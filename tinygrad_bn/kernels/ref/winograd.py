"""3×3 convolution of stride 1 by Winograd's F(4×4, 3×3): y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A.

The matrices follow from the points 0, ±3/4, ±3/2 and infinity: Aᵀ evaluates at them as a Vandermonde matrix, so do the
rows of G but for a factor, and B is the transposed inverse of what evaluates the product (Lavin & Gray 2016,
arXiv:1509.09308). Tiles of 4×4 outputs are numbered by sample, row and column of tiles; the points of a tile by row and
column.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec
from tinygrad_bn.kernels.winograd import HEIGHT, LANES, POINTS, padded

Array = np.ndarray[Any, Any]


def _matrices() -> tuple[Array, Array, Array]:
    """Aᵀ (4, 6), G (6, 3) and Bᵀ (6, 6)."""
    points = np.array([0.0, 0.75, -0.75, 1.5, -1.5])

    def evaluation(n: int) -> Array:
        return np.vstack([points[:, None] ** np.arange(n), np.eye(n)[-1:]])

    scale = [np.prod([p - q for q in points if q != p]) for p in points] + [1.0]
    return (
        evaluation(4).T,
        evaluation(3) / np.array(scale)[:, None],
        np.linalg.inv(evaluation(6)).T * np.array(scale)[:, None],
    )


A, G, B = _matrices()


def tiles_of(rows: int, columns: int) -> tuple[int, int]:
    return -(-rows // 4), -(-columns // 4)


def patches_of(x: Array, top: int, left: int, down: int, across: int) -> Array:
    """The inputs (6, 6) of all tiles, (C, tiles, 6, 6), float64."""
    n, c, h, w = x.shape
    need_h, need_w = 4 * down + 2, 4 * across + 2
    padded = np.zeros((n, c, need_h, need_w))
    ys, xs = np.arange(need_h) - top, np.arange(need_w) - left
    inside_y, inside_x = (ys >= 0) & (ys < h), (xs >= 0) & (xs < w)
    padded[np.ix_(range(n), range(c), inside_y, inside_x)] = x[:, :, ys[inside_y]][..., xs[inside_x]]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (6, 6), axis=(2, 3))[:, :, ::4, ::4]
    return windows.transpose(1, 0, 2, 3, 4, 5).reshape(c, n * down * across, 6, 6)


def _panels(u: Array, inputs: int) -> Array:
    """Transformed filters (6, 6, outputs, inputs) as they lie in panels, the last of which is filled up: a copy."""
    panels = u[:, : u.shape[1] - LANES].reshape(6, 6, -1, inputs, HEIGHT)
    return panels.swapaxes(3, 4).reshape(6, 6, -1, inputs)


@spec(writes="u")
def winograd_filters(w: Array, turned: bool, u: Array) -> None:
    """u[q, p, c, r] = G w[HEIGHT p + r, c] Gᵀ, zeros where there is no filter, for the points q.

    ``turned``: of the filters rotated by 180°, outputs and inputs exchanged. A point's filters lie in a row of
    ``kernels.winograd.filter_plane`` elements.
    """
    filters = w[:, :, ::-1, ::-1].swapaxes(0, 1) if turned else w
    outputs, inputs = filters.shape[:2]
    whole = np.zeros((6, 6, padded(outputs, HEIGHT), inputs))
    whole[:, :, :outputs] = np.einsum("ir,ocrs,js->ijoc", G, filters.astype(np.float64), G)
    u[...] = 0
    u[:, : u.shape[1] - LANES] = whole.reshape(POINTS, -1, HEIGHT, inputs).swapaxes(2, 3).reshape(POINTS, -1)


def normalised(x: Array, statistics: Array, weight: Array, shift: Array, act: int) -> Array:
    """x as it is, or act((x - mean) invstd weight + shift), float64."""
    if not statistics.size:
        return x
    mean, low, _, invstd = (row.astype(np.float64)[:, None, None] for row in statistics)
    z = (x - mean - low) * invstd
    z = z * weight[:, None, None] if weight.size else z
    z = z + shift[:, None, None] if shift.size else z
    out: Array = np.maximum(z, 0) if act == 1 else z
    return out


@spec(writes="y parts", workspace="work")
def winograd_convolution(
    x: Array, statistics: Array, weight: Array, shift: Array, act: int, u: Array, bias: Array, top: int, left: int,
    blocks_h: int, blocks_w: int, tiles: int, held: int, work: Array, y: Array, parts: Array,
) -> None:  # fmt: skip
    """y = w ⋆ x + bias, of filters transformed by ``winograd_filters``; parts[o, b] = count, mean and M2 of block b's
    results of output o, unless it is empty.

    Of x normalised, if ``statistics`` is not empty: mean, what rounding took from it, variance and 1 / √(var + eps) of
    each channel, then times ``weight`` plus ``shift`` where they are not empty, then relu if
    ``act`` is 1.

    The filters may be blocks of 3×3, ``blocks_h`` × ``blocks_w`` of them as so many times C inputs of u, block for
    block: w[o, p, q, c] meets x[n, c] from row 3 p and column 3 q on.

    ``tiles`` are transformed at once, a multiple of LANES, and ``held`` outputs transformed back, a multiple of
    HEIGHT. ``work``: as many rows as the work is to be shared among, of ``kernels.winograd.block_work`` elements.
    """
    n, k, rows, columns = y.shape
    down, across = tiles_of(rows, columns)
    z = normalised(x, statistics, weight, shift, act)
    seen = [patches_of(z, top - 3 * p, left - 3 * q, down, across) for p in range(blocks_h) for q in range(blocks_w)]
    patches = np.einsum("ir,ctrs,js->ijct", B, np.concatenate(seen), B)
    filters = _panels(u.astype(np.float64), patches.shape[2])[:, :, :k]
    m = np.einsum("ijkc,ijct->ijkt", filters, patches)
    out = np.einsum("ri,ijkt,sj->ktrs", A, m, A).reshape(k, n, down, across, 4, 4)
    whole = out.transpose(1, 0, 2, 4, 3, 5).reshape(n, k, 4 * down, 4 * across)[:, :, :rows, :columns]
    whole = whole + (bias[:, None, None] if bias.size else 0)
    y[...] = whole
    if parts.size:
        _moments(whole, tiles, parts)


def _moments(y: Array, tiles: int, parts: Array) -> None:
    n, k, rows, columns = y.shape
    down, across = tiles_of(rows, columns)
    ys, xs = np.arange(rows) // 4, np.arange(columns) // 4
    tile = (np.arange(n)[:, None, None] * down + ys[:, None]) * across + xs
    for o in range(k):
        for b in range(parts.shape[1]):
            values = y[:, o][tile // tiles == b].astype(np.float64)
            parts[o, b] = values.size, values.mean(), ((values - values.mean()) ** 2).sum()
