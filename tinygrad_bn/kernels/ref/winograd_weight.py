"""The gradient of a 3×3 convolution's filters by Winograd's F(4×4, 3×3).

gw = Gᵀ [Σ_tiles (A gy Aᵀ) ⊙ (Bᵀ x B)] G
"""

from __future__ import annotations

import numpy as np

from tinygrad_bn.kernels.ref.winograd import A, Array, B, G, normalised, patches_of, tiles_of
from tinygrad_bn.kernels.spec import spec
from tinygrad_bn.kernels.winograd import HEIGHT, LANES, POINTS, padded


def results_of(gy: Array, down: int, across: int) -> Array:
    """The gradients (4, 4) of all tiles, (O, tiles, 4, 4), float64, zero beyond the edges."""
    n, k, rows, columns = gy.shape
    whole = np.zeros((n, k, 4 * down, 4 * across))
    whole[:, :, :rows, :columns] = gy
    return whole.reshape(n, k, down, 4, across, 4).transpose(1, 0, 2, 4, 3, 5).reshape(k, -1, 4, 4)


def units_of(samples: int, down: int, across: int, high: int, wide: int) -> Array:
    """The unit of each tile: rectangles of high × wide tiles, by sample, row and column."""
    bands = -(-down // high), -(-across // wide)
    rows, columns = np.arange(down) // high, np.arange(across) // wide
    inside = rows[:, None] * bands[1] + columns
    return (np.arange(samples)[:, None, None] * bands[0] * bands[1] + inside).reshape(-1)


def points_of(
    x: Array, statistics: Array, weight: Array, shift: Array, act: int, gy: Array, top: int, left: int
) -> tuple[Array, Array]:
    """The points of all tiles, (6, 6, channels, tiles), float64: of x, normalised, and of gy."""
    down, across = tiles_of(*gy.shape[2:])
    patches = patches_of(normalised(x, statistics, weight, shift, act), top, left, down, across)
    v = np.einsum("ir,ctrs,js->ijct", B, patches, B)
    return v, np.einsum("ri,ktrs,sj->ijkt", A, results_of(gy, down, across), A)


@spec(writes="u", workspace="work")
def winograd_gradient(
    x: Array, statistics: Array, weight: Array, shift: Array, act: int, gy: Array, top: int, left: int,
    high: int, wide: int, tiles: int, work: Array, u: Array,
) -> None:  # fmt: skip
    """u[p, q, o, c] = Σ_t (A gy[o, t] Aᵀ)_q (Bᵀ x[c, t] B)_q over the tiles of part p; the sum of all parts counts.

    x may be normalised as in ``winograd_convolution``.

    The parts are whole units of ``high`` × ``wide`` tiles: part p of P holds units ⌊p U / P⌋ … ⌊(p + 1) U / P⌋. A block
    is as many as have no more than ``tiles``, which holds one. A point's sums lie in a row of
    ``kernels.winograd.gradient_plane`` elements, outputs padded with zeros to HEIGHT and channels to LANES. ``work``:
    as many rows as the work is to be shared among, of ``kernels.winograd.gradient_work`` elements.
    """
    outputs, inputs, parts = gy.shape[1], x.shape[1], u.shape[0]
    unit = units_of(x.shape[0], *tiles_of(*gy.shape[2:]), high, wide)
    v, m = points_of(x, statistics, weight, shift, act, gy, top, left)
    count = int(unit[-1]) + 1
    whole = np.zeros((6, 6, padded(outputs, HEIGHT), padded(inputs, LANES)))
    u[...] = 0
    for p in range(parts):
        own = (unit >= count * p // parts) & (unit < count * (p + 1) // parts)
        whole[:, :, :outputs, :inputs] = m[..., own] @ v[..., own].swapaxes(2, 3)
        u[p, :, : u.shape[2] - LANES] = whole.reshape(POINTS, -1)


@spec(writes="v m", workspace="work")
def winograd_points(
    x: Array, statistics: Array, weight: Array, shift: Array, act: int, gy: Array, top: int, left: int,
    high: int, wide: int, first: int, last: int, work: Array, v: Array, m: Array,
) -> None:  # fmt: skip
    """v[q, g, t, i] = (Bᵀ x[LANES g + i, t] B)_q and m, the same of A gy Aᵀ, for the tiles t of some units.

    x may be normalised as in ``winograd_convolution``. The units ``first`` … ``last`` - 1 are those of
    ``winograd_gradient``; tiles are in their order, within a unit by row and column. Channels are padded with zeros to
    LANES. A point lies in a row of ``kernels.winograd.points_plane`` elements, the last LANES of which are zeros.
    ``work``: as many rows as the work is to be shared among, of ``kernels.winograd.unit_work`` elements.
    """
    unit = units_of(x.shape[0], *tiles_of(*gy.shape[2:]), high, wide)
    order = np.argsort(unit, kind="stable")
    wanted = order[(unit[order] >= first) & (unit[order] < last)]
    for points, out in zip(points_of(x, statistics, weight, shift, act, gy, top, left), (v, m), strict=True):
        channels = points.shape[2]
        whole = np.zeros((6, 6, padded(channels, LANES), wanted.size))
        whole[:, :, :channels] = points[..., wanted]
        out[...] = 0
        groups = whole.reshape(POINTS, -1, LANES, wanted.size).swapaxes(2, 3)
        out[:, : out.shape[1] - LANES] = groups.reshape(POINTS, -1)


@spec(writes="", updates="u")
def winograd_products(m: Array, v: Array, tiles: int, more: bool, u: Array) -> None:
    """u[0, q, o, c] = Σ_t m[q, t, o] v[q, t, c] of what ``winograd_points`` left, plus what is there if ``more``."""

    def points(a: Array) -> Array:
        groups = a[:, : a.shape[1] - LANES].astype(np.float64).reshape(POINTS, -1, tiles, LANES)
        return groups.swapaxes(2, 3).reshape(POINTS, -1, tiles)

    inputs = (v.shape[1] - LANES) // tiles
    outputs = (u.shape[2] - LANES) // inputs
    whole = (points(m)[:, :outputs] @ points(v).swapaxes(1, 2)).reshape(POINTS, -1)
    own = u[0, :, : u.shape[2] - LANES]
    own[...] = own + whole if more else whole
    u[0, :, u.shape[2] - LANES :] = 0


@spec(writes="gw", updates="u")
def winograd_filter_gradient(u: Array, gw: Array) -> None:
    """gw[o, c] = Gᵀ (Σ_p u[p, :, o, c]) G, of what ``winograd_gradient`` left.

    The sum is formed in u[0], and the nine taps where its first nine points were.
    """
    outputs, inputs = gw.shape[:2]
    used = outputs * padded(inputs, LANES)
    points = u[:, :, :used].astype(np.float64).sum(0)
    u[0, :, :used] = points
    taps = np.einsum("ir,ijt,js->rst", G, points.reshape(6, 6, -1), G)
    u[0, :9, :used] = taps.reshape(9, -1)
    gw[...] = taps.reshape(3, 3, outputs, -1)[..., :inputs].transpose(2, 3, 0, 1)
