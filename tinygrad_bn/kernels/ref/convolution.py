"""What turns a convolution into a matrix product.

im2col    columns[c, p, q, n, i, j] = x[n, c, i s_h + p d_h - top, j s_w + q d_w - left], 0 outside of x
col2im    the adjoint: out[n, c, h, w] = Σ columns[c, p, q, n, i, j] over all that im2col reads from there
exchange  out[b, a, l] = x[a, b, l] + bias[a], b empty where there is none
add_bias  out[n, c, l] += bias[c]
accumulate out += x

Chellapilla, Puri & Simard 2006 (Tenth International Workshop on Frontiers in Handwriting Recognition).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _places(count: int, taps: int, stride: int, before: int, dilation: int, extent: int) -> tuple[Array, Array]:
    """Where tap p of window i lies along an axis, shape (taps, count), and whether that is inside."""
    at = np.arange(count)[None, :] * stride + np.arange(taps)[:, None] * dilation - before
    inside = (at >= 0) & (at < extent)
    return np.where(inside, at, 0), inside


@spec()
def im2col(
    x: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int, out: Array
) -> None:
    """x (N, C, H, W), out (C, KH, KW, N, OH, OW)."""
    _, kh, kw, _, oh, ow = out.shape
    h, in_h = _places(oh, kh, stride_h, top, dilation_h, x.shape[2])
    w, in_w = _places(ow, kw, stride_w, left, dilation_w, x.shape[3])
    inside = in_h[:, None, :, None] & in_w[None, :, None, :]
    taken = x[:, :, h[:, None, :, None], w[None, :, None, :]]  # (N, C, KH, KW, OH, OW)
    out[...] = np.where(inside, taken, 0).transpose(1, 2, 3, 0, 4, 5)


@spec()
def col2im(
    columns: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int, out: Array
) -> None:
    """columns (C, KH, KW, N, OH, OW), out (N, C, H, W)."""
    _, kh, kw, _, oh, ow = columns.shape
    h, in_h = _places(oh, kh, stride_h, top, dilation_h, out.shape[2])
    w, in_w = _places(ow, kw, stride_w, left, dilation_w, out.shape[3])
    inside = in_h[:, None, :, None] & in_w[None, :, None, :]
    total = np.zeros((out.shape[2], out.shape[3], *out.shape[:2]), np.float64)
    values = columns.transpose(1, 2, 4, 5, 3, 0)[inside]  # (places, N, C)
    rows, across = np.broadcast_arrays(h[:, None, :, None], w[None, :, None, :])
    np.add.at(total, (rows[inside], across[inside]), values)
    out[...] = total.transpose(2, 3, 0, 1)


@spec()
def exchange(x: Array, bias: Array, out: Array) -> None:
    """x (A, B, L), bias (A,) or (0,), out (B, A, L)."""
    out[...] = (x + bias[:, None, None] if bias.size else x).swapaxes(0, 1)


@spec(writes="", updates="out")
def add_bias(bias: Array, out: Array) -> None:
    """bias (C,), out (N, C, L)."""
    out += bias[:, None]


@spec(writes="", updates="out")
def accumulate(x: Array, out: Array) -> None:
    """Both flat."""
    out += x
