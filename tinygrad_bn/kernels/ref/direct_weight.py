"""The gradient of a convolution's filters as a direct sum.

gw[o, c, p, q] = Σ_{n,i,j} gy[n, o, i, j] x[n, c, i s_h + p d_h - top, j s_w + q d_w - left]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _seen(x: Array, axis: int, count: int, stride: int, start: int) -> Array:
    """Elements start, start + stride, … of an axis, ``count`` of them; zeros off its ends."""
    at = start + stride * np.arange(count)
    inside = (at >= 0) & (at < x.shape[axis])
    taken = np.take(x, np.where(inside, at, 0), axis)
    shape = [1] * x.ndim
    shape[axis] = count
    return np.where(inside.reshape(shape), taken, 0)


@spec(writes="gw", workspace="places work parts")
def direct_weight(
    x: Array, gy: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int,
    samples: int, rows: int, columns: int, channels: int, places: Array, work: Array, parts: Array, gw: Array,
) -> None:  # fmt: skip
    """x (N, C, H, W), gy (N, O, OH, OW), gw (O, C / groups, KH, KW).

    The sum runs over blocks of ``samples`` × ``rows`` × ``columns`` pixels, in parts, and ranges of ``channels``
    channels of a group. ``parts``: (parts, groups, ranges, taps of a range, outputs of a group), the taps rounded up
    to ``kernels.direct_weight.LEAST``, the outputs to whole registers. For each share of the pool ``places``: int64,
    ``kernels.direct_weight.places`` of them; ``work``: a strip and a block of gradients.
    """
    outputs, depth, kh, kw = gw.shape
    groups = x.shape[1] // depth
    g = gy.astype(np.float64).reshape(gy.shape[0], groups, outputs // groups, *gy.shape[2:])
    for p in range(kh):
        lines = _seen(x.astype(np.float64), 2, gy.shape[2], stride_h, p * dilation_h - top)
        for q in range(kw):
            seen = _seen(lines, 3, gy.shape[3], stride_w, q * dilation_w - left)
            seen = seen.reshape(x.shape[0], groups, depth, *gy.shape[2:])
            gw[:, :, p, q] = np.einsum("ngohw,ngchw->goc", g, seen, optimize=True).reshape(outputs, depth)
