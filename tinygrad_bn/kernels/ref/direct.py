"""Direct convolution as a sum of taps, each a product of matrices on a shifted, strided view of the padded input.

    out[n, r, i p + a, j p' + b] = bias[r] + Σ_c Σ_taps of (a, b)  w[r, c, tap] x[n, c, i s + dy, j s' + dx]

x is 0 outside. Tap (a, b, dy, dx, number): its phase, how far it looks, which element of a filter it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def seen(x: Array, offset: int, stride: int, count: int, axis: int) -> Array:
    """x at offset, offset + stride, … along an axis, ``count`` of them, 0 outside."""
    at = offset + stride * np.arange(count)
    inside = (at >= 0) & (at < x.shape[axis])
    found: Array = np.take(x, np.where(inside, at, 0), axis)
    found[(slice(None),) * axis + (~inside,)] = 0
    return found


@spec(writes="out", workspace="work")
def direct_convolution(
    x: Array, w: Array, bias: Array, turned: bool, stride_h: int, stride_w: int, spread_h: int, spread_w: int,
    taps: Array, lines: Array, cut: Array, work: Array, out: Array,
) -> None:  # fmt: skip
    """The sum above over the channels of each group; ``turned``: w[c, r, tap] in place of w[r, c, tap].

    ``lines``, ``cut`` and the last column of ``taps`` say how the work may be cut, ``work`` has a row for each share of
    it: see ``kernels.direct.Plan``.
    """
    groups = (out if turned else x).shape[1] // w.shape[1]
    n = x.shape[0]
    filters = w.astype(np.float64).reshape(groups, w.shape[0] // groups, w.shape[1], -1)
    parts = x.astype(np.float64).reshape(n, groups, -1, *x.shape[2:])
    total = np.zeros(out.shape).reshape(n, groups, -1, *out.shape[2:])
    for a, b, dy, dx, number, _ in taps.tolist():
        into = total[..., a::spread_h, b::spread_w]
        view = seen(seen(parts, dy, stride_h, into.shape[3], 3), dx, stride_w, into.shape[4], 4)
        factor = filters[..., number]
        into += np.einsum("gcr,ngcij->ngrij" if turned else "grc,ngcij->ngrij", factor, view)
    out[...] = total.reshape(out.shape) + (bias[:, None, None] if bias.size else 0)
