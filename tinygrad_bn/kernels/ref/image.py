"""Kernels that change batches of pictures, (N, C, H, W), for loaders.

crop        out_nij = x_n,top_n+i,left_n+j where there is such a pixel, else fill
mirror      out_nij = x_n,i,W-1-j where the picture's flag is set, else x_nij
normalise   out_c = (x_c / divisor - mean_c) / std_c
jitter      in the picture's own order, each step kept within [0, 1]: brightness b v; contrast c v + (1 - c) m, m the
            mean of the picture's grey values; saturation s v + (1 - s) grey; with
            grey = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)
tint        out_nc = x_nc / divisor + shift_nc
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]
GREY = (0.299, 0.587, 0.114)


@spec()
def crop_pictures(x: Array, top: Array, left: Array, fill: float, out: Array) -> None:
    """Pieces of the extents of ``out``, from (top, left) of each picture on; both may lie outside of it."""
    h, w = out.shape[2:]
    out[...] = fill
    for picture, i, j, into in zip(x, top, left, out, strict=True):
        rows, columns = np.arange(i, i + h), np.arange(j, j + w)
        inside = (rows >= 0) & (rows < x.shape[2]), (columns >= 0) & (columns < x.shape[3])
        into[:, inside[0][:, None] & inside[1]] = picture[:, rows[inside[0]]][:, :, columns[inside[1]]].reshape(
            x.shape[1], -1
        )


@spec()
def mirror_pictures(x: Array, flags: Array, out: Array) -> None:
    """Left and right exchanged where the flag is set."""
    out[...] = np.where(flags[:, None, None, None], x[..., ::-1], x)


@spec()
def normalise_pictures(x: Array, divisor: float, mean: Array, std: Array, out: Array) -> None:
    """Values of ``x`` divided, the channel's mean taken off, and divided by the channel's deviation."""
    values = x.astype(out.dtype) / out.dtype.type(divisor)
    out[...] = (values - mean[:, None, None]) / std[:, None, None]


@spec()
def jitter_pictures(x: Array, divisor: float, factors: Array, order: Array, out: Array) -> None:
    """Brightness (0), contrast (1) and saturation (2) by ``factors`` (N, 3), in the ``order`` (N, 3)."""
    values = x.astype(np.float64) / divisor
    for v, by, steps in zip(values, factors.astype(np.float64), order, strict=True):
        for step in steps:
            grey = np.tensordot(GREY, v, 1)
            towards = (0.0, grey.mean(), grey)[step]
            v[...] = np.clip(by[step] * v + (1 - by[step]) * towards, 0, 1)
    out[...] = values


@spec()
def tint_pictures(x: Array, divisor: float, shift: Array, out: Array) -> None:
    """A colour added to each picture."""
    out[...] = x.astype(out.dtype) / out.dtype.type(divisor) + shift[:, :, None, None]
