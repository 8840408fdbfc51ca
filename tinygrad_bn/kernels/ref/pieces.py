"""Pictures, and filters, in pieces: what turns a convolution of another geometry into one of 3×3 and stride 1.

gather_pieces     out[n, p, q, c, i, j] = x[n, c, i s_h + p t_h - top, j s_w + q t_w - left], 0 outside of x
scatter_pieces    out[n, c, i s_h + p t_h - top, j s_w + q t_w - left] = pieces[n, p, q, c, i, j], wherever inside

Steps t = 1 with as many pieces as the stride s are its phases; s = 1 and t = 3 are blocks of three taps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def places(pieces: int, count: int, stride: int, step: int, before: int, extent: int) -> tuple[Array, Array]:
    """Where element i of piece p lies along an axis, (pieces, count), and whether that is inside."""
    at = np.arange(count)[None, :] * stride + np.arange(pieces)[:, None] * step - before
    inside = (at >= 0) & (at < extent)
    return np.where(inside, at, 0), inside


@spec()
def gather_pieces(
    x: Array, stride_h: int, stride_w: int, step_h: int, step_w: int, top: int, left: int, out: Array
) -> None:
    """x (N, C, H, W), out (N, P, Q, C, I, J); steps may be negative."""
    _, down, across, _, rows, columns = out.shape
    h, in_h = places(down, rows, stride_h, step_h, top, x.shape[2])
    w, in_w = places(across, columns, stride_w, step_w, left, x.shape[3])
    inside = in_h[:, None, :, None] & in_w[None, :, None, :]
    taken = x[:, :, h[:, None, :, None], w[None, :, None, :]]  # (N, C, P, Q, I, J)
    out[...] = np.where(inside, taken, 0).transpose(0, 2, 3, 1, 4, 5)


@spec()
def scatter_pieces(
    pieces: Array, stride_h: int, stride_w: int, step_h: int, step_w: int, top: int, left: int, out: Array
) -> None:
    """pieces (N, P, Q, C, I, J), out (N, C, H, W), which they cover, each element once; along an axis the stride is
    their number and the step 1, or the stride 1 and the step their extent."""
    _, down, across, _, rows, columns = pieces.shape
    h, in_h = places(down, rows, stride_h, step_h, top, out.shape[2])
    w, in_w = places(across, columns, stride_w, step_w, left, out.shape[3])
    inside = in_h[:, None, :, None] & in_w[None, :, None, :]
    at_h, at_w = np.broadcast_arrays(h[:, None, :, None], w[None, :, None, :])
    out[:, :, at_h[inside], at_w[inside]] = pieces.transpose(0, 3, 1, 2, 4, 5)[:, :, inside]
