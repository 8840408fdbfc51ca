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


@spec(writes="u", workspace="work")
def winograd_gradient(
    x: Array, statistics: Array, weight: Array, shift: Array, act: int, gy: Array, top: int, left: int,
    tiles: int, work: Array, u: Array,
) -> None:  # fmt: skip
    """u[p, q, o, c] = Σ_t (A gy[o, t] Aᵀ)_q (Bᵀ x[c, t] B)_q over the tiles of part p; the sum of all parts counts.

    x may be normalised as in ``winograd_convolution``.

    The parts are whole blocks of ``tiles``, a multiple of LANES: part p of P holds blocks ⌊p B / P⌋ … ⌊(p + 1) B / P⌋.
    A point's sums lie in a row of ``kernels.winograd.gradient_plane`` elements, outputs padded with zeros to HEIGHT
    and channels to LANES. ``work``: as many rows as the work is to be shared among, of
    ``kernels.winograd.gradient_work`` elements.
    """
    outputs, inputs, parts = gy.shape[1], x.shape[1], u.shape[0]
    down, across = tiles_of(*gy.shape[2:])
    v = np.einsum(
        "ir,ctrs,js->ijct", B, patches_of(normalised(x, statistics, weight, shift, act), top, left, down, across), B
    )
    m = np.einsum("ri,ktrs,sj->ijkt", A, results_of(gy, down, across), A)
    blocks = -(-v.shape[3] // tiles)
    whole = np.zeros((6, 6, padded(outputs, HEIGHT), padded(inputs, LANES)))
    u[...] = 0
    for p in range(parts):
        own = slice(blocks * p // parts * tiles, blocks * (p + 1) // parts * tiles)
        whole[:, :, :outputs, :inputs] = m[..., own] @ v[..., own].swapaxes(2, 3)
        u[p, :, : u.shape[2] - LANES] = whole.reshape(POINTS, -1)


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
