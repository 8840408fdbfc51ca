"""The gradient of a 3×3 convolution's filters by Winograd's F(4×4, 3×3), step by step for a chunk of tiles.

gw = Gᵀ [Σ_tiles (A gy Aᵀ) ⊙ (Bᵀ x B)] G
"""

from __future__ import annotations

import numpy as np

from tinygrad_bn.kernels.ref.winograd import A, Array, B, G, patches_of, tiles_of
from tinygrad_bn.kernels.spec import spec


@spec(writes="v", workspace="work")
def winograd_patches(x: Array, first: int, top: int, left: int, down: int, across: int, work: Array, v: Array) -> None:
    """v[q, c, t] = Bᵀ x B of the tiles from ``first`` on, zero beyond the last tile and channel.

    ``work``: ``kernels.winograd.line_work`` elements a channel.
    """
    found = np.einsum("ir,ctrs,js->ijct", B, patches_of(x, top, left, down, across), B).reshape(36, x.shape[1], -1)
    found = found[:, :, first : first + v.shape[2]]
    v[...] = 0
    v[:, : found.shape[1], : found.shape[2]] = found


@spec(writes="m", workspace="work")
def winograd_results(gy: Array, first: int, work: Array, m: Array) -> None:
    """m[q, o, t] = A gy Aᵀ of the tiles from ``first`` on, zero beyond the last tile and output.

    ``work``: ``kernels.winograd.line_work`` elements an output.
    """
    n, k, rows, columns = gy.shape
    down, across = tiles_of(rows, columns)
    padded = np.zeros((n, k, 4 * down, 4 * across))
    padded[:, :, :rows, :columns] = gy
    tiles = padded.reshape(n, k, down, 4, across, 4).transpose(1, 0, 2, 4, 3, 5).reshape(k, -1, 4, 4)
    found = np.einsum("ri,ktrs,sj->ijkt", A, tiles, A).reshape(36, k, -1)[:, :, first : first + m.shape[2]]
    m[...] = 0
    m[:, : found.shape[1], : found.shape[2]] = found


@spec(writes="", updates="u", workspace="term")
def winograd_accumulate(m: Array, v: Array, added: bool, term: Array, u: Array) -> None:
    """u[q, o, c] = Σ_t m[q, o, t] v[q, c, t], added to what is there if ``added``. ``term`` is like ``u``."""
    factors = m[:, : u.shape[1]].astype(np.float64), v[:, : u.shape[2]].astype(np.float64)
    found = factors[0] @ factors[1].swapaxes(1, 2)
    u[...] = found + (u if added else 0)


@spec(writes="gw")
def winograd_filter_gradient(u: Array, gw: Array) -> None:
    """gw[o, c] = Gᵀ u[:, o, c] G."""
    points = u.astype(np.float64).reshape(6, 6, *gw.shape[:2])
    gw[...] = np.einsum("ir,ijoc,js->ocrs", G, points, G)
