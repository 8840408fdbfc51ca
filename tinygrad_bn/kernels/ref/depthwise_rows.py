"""Depthwise convolutions by small square kernels, directly.

    y[n, o, i, j] = b[o] + Σ_{p, q} w[o, 0, p, q] x[n, c, i s + p - top, j s + q - left],  c = ⌊o C / O⌋

x is 0 outside. ``together``, ``parts`` and the workspaces are the fast kernels' own matter; see
``kernels/cpu/depthwise_rows.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _padded(x: Array, w: Array, stride: int, top: int, left: int, size: tuple[int, ...]) -> Array:
    """x (N, C, H, W) with as many zeros about it as its windows see, in float64."""
    need = [max(x.shape[k] + before, (size[k] - 1) * stride + w.shape[k]) for k, before in ((2, top), (3, left))]
    out = np.zeros((*x.shape[:2], *need))
    out[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    return out


def _seen(p: int, q: int, stride: int, size: tuple[int, ...]) -> tuple[Any, ...]:
    """What place (p, q) of the kernel sees of padded planes."""
    rows, columns = (slice(k, k + (n - 1) * stride + 1, stride) for k, n in ((p, size[2]), (q, size[3])))
    return (..., rows, columns)


@spec(writes="y", workspace="work")
def depthwise_rows(
    x: Array, w: Array, bias: Array, stride: int, top: int, left: int, together: int, work: Array, y: Array
) -> None:
    """x (N, C, H, W), w (O, 1, K, K), bias (O,) or (0,), y (N, O, OH, OW); O is a multiple of C."""
    padded = np.repeat(_padded(x, w, stride, top, left, y.shape), w.shape[0] // x.shape[1], axis=1)
    out = np.zeros(y.shape) + (bias[:, None, None] if bias.size else 0)
    for p in range(w.shape[2]):
        for q in range(w.shape[3]):
            out += w[:, 0, p, q, None, None] * padded[_seen(p, q, stride, y.shape)]
    y[...] = out


@spec(writes="gx gw", workspace="partial work")
def depthwise_rows_back(
    gy: Array, x: Array, w: Array, stride: int, top: int, left: int, together: int, parts: int, partial: Array,
    work: Array, gx: Array, gw: Array,
) -> None:  # fmt: skip
    """Both gradients; O = C."""
    padded = _padded(x, w, stride, top, left, gy.shape)
    back = np.zeros_like(padded)
    for p in range(w.shape[2]):
        for q in range(w.shape[3]):
            seen = _seen(p, q, stride, gy.shape)
            back[seen] += w[:, 0, p, q, None, None].astype(np.float64) * gy
            gw[:, 0, p, q] = (padded[seen] * gy).sum((0, 2, 3))
    gx[...] = back[:, :, top : top + x.shape[2], left : left + x.shape[3]]
